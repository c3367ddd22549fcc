package leaks

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Adopt makes this process the parent of every orphan among its descendants, so
// that none escapes processes, and reaps those that end until ctx does. An
// orphan is told from a command of our own, whose caller reaps it at once, by
// having been dead for a while.
func Adopt(ctx context.Context) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	go func() {
		dead := map[int]int{}
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(500 * time.Millisecond): // reading of all is work, on a slow machine above all
				dead = reap(dead)
			}
		}
	}()
	return nil
}

// reap takes away the children that were zombies before and are still.
func reap(before map[int]int) map[int]int {
	now := map[int]int{}
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, l := range lists {
		data, err := os.ReadFile(l)
		if err != nil {
			continue
		}
		for _, f := range strings.Fields(string(data)) {
			stat, err := os.ReadFile("/proc/" + f + "/stat")
			if err != nil || !strings.Contains(string(stat), ") Z ") {
				continue
			}
			pid := atoi(f)
			if now[pid] = before[pid] + 1; now[pid] > 1 {
				var status unix.WaitStatus
				_, _ = unix.Wait4(pid, &status, unix.WNOHANG, nil)
			}
		}
	}
	return now
}

func atoi(s string) int {
	n := 0
	for _, c := range s {
		n = n*10 + int(c-'0')
	}
	return n
}

// gone tells the error of reading a cgroup that was just removed.
func gone(err error) bool { return errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.ENOTDIR) }
