package handlers

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// shims are the shims of a daemon's state folder.
func shims(state string) (pids []int) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, l := range lines {
		data, _ := os.ReadFile(l)
		if strings.Contains(string(data), "\x00serve\x00") && strings.Contains(string(data), state) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(l)))
			pids = append(pids, pid)
		}
	}
	return pids
}

func kill(pid int) error { return unix.Kill(pid, unix.SIGKILL) }
