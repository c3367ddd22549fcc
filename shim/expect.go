package shim

import (
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/cgroups"
)

// An expectation has the kernel get ready to move processes between cgroups of version 1.
//
// It lets nobody fork or exit while it moves one, and the first move after a while waits for
// all CPUs to have taken notice (an RCU grace period, 5 to 12 ms on a quiet machine); those that
// follow within that time do not. libcontainer moves each container's first process, and that
// wait is most of what the move takes. Any move will do to have it over with before: this
// process is moved to where it is already. On a host with version 2 alone libcontainer has
// the kernel create the process in its cgroup, there is no such wait, and nothing is done.
type expectation struct {
	under sync.Mutex // held while a move is under way: one is enough
	find  sync.Once
	procs string // cgroup.procs of this process in one hierarchy of version 1, "" without one
}

// Expect says that a container will be created within milliseconds. It does not wait.
func (s *Shims) Expect() {
	e := &s.expectation
	if !e.under.TryLock() {
		return
	}
	go func() { // finite, and nothing of s: Close need not wait for the kernel
		defer e.under.Unlock()
		_ = e.move() // else the container's own move waits, as ever
	}()
}

// move moves this process to where it is.
func (e *expectation) move() error {
	e.find.Do(func() { e.procs = ownProcs() })
	if e.procs == "" {
		return nil
	}
	return os.WriteFile(e.procs, []byte("0"), 0)
}

// ownProcs is where this process is moved to where it is.
func ownProcs() string {
	if cgroups.IsCgroup2UnifiedMode() {
		return ""
	}
	for _, controller := range []string{"freezer", "pids", "devices", "memory", "cpu"} {
		if dir, err := cgroups.GetOwnCgroupPath(controller); err == nil {
			return filepath.Join(dir, "cgroup.procs")
		}
	}
	return ""
}
