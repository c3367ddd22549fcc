package shim

import (
	"errors"
	"path/filepath"
	"strings"
	"sync"

	"github.com/opencontainers/cgroups"
)

// An expectation has the kernel get ready to move processes between cgroups.
//
// It lets nobody fork or exit while it moves one, and the first move after a while waits for
// all CPUs to have taken notice (an RCU grace period, 5 to 12 ms on a quiet machine); those that
// follow within that time do not. libcontainer moves each container's first process, and that
// wait is most of what the move takes. Any move will do to have it over with before: this
// process is moved to where it is already.
type expectation struct {
	under sync.Mutex // held while a move is under way: one is enough
}

// Expect says that a container will be created within milliseconds. It does not wait. Where the
// kernel is stuck in a move, one thread of this process is, until the kernel goes on.
func (s *Shims) Expect() {
	e := &s.expectation
	if !e.under.TryLock() {
		return
	}
	go func() { // nothing of s: Close need not wait for the kernel
		defer e.under.Unlock()
		_ = stay() // else the container's own move waits, as ever
	}()
}

var errNoHierarchy = errors.New("this process's cgroup is in no hierarchy that is mounted")

// stay moves this process to where it is.
func stay() error {
	dir, err := ownCgroup()
	if err != nil {
		return err
	}
	return cgroups.WriteFile(dir, "cgroup.procs", "0")
}

// ownCgroup is this process's cgroup in one of the hierarchies. Where it is may change: an
// administrator moves a daemon.
func ownCgroup() (string, error) {
	const root = "/sys/fs/cgroup"
	if cgroups.IsCgroup2UnifiedMode() {
		own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
		if err != nil {
			return "", err
		}
		return filepath.Join(root, own[""]), nil
	}
	for _, controller := range []string{"freezer", "pids", "devices", "memory", "cpu"} {
		dir, err := cgroups.GetOwnCgroupPath(controller)
		if err == nil && strings.HasPrefix(dir, root+"/") {
			return dir, nil
		}
	}
	return "", errNoHierarchy
}
