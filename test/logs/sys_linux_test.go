package logs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// shimsOf are the PIDs of the shims of a state directory.
func shimsOf(state string) (pids []int) {
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range found {
		line, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		args := bytes.Split(line, []byte{0})
		if filepath.Base(string(args[0])) != "berth-shim" || !bytes.Contains(line, []byte(state)) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// kill ends a process. One that has ended is fine.
func kill(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGKILL); !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// pipesOf are the pipes that a process has, none when there is no such process.
func pipesOf(pid int) map[string]bool {
	pipes := map[string]bool{}
	found, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/fd/*")
	for _, fd := range found {
		if name, err := os.Readlink(fd); err == nil && strings.HasPrefix(name, "pipe:") {
			pipes[name] = true
		}
	}
	return pipes
}
