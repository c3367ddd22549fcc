package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/klog/v2"
)

// How long a plugin of a daemon that died is waited for, and for its end when it was
// killed, and how often it is looked for. A plugin that hangs must not keep its pod.
const (
	orphanLimit = 10 * time.Second
	orphanEnd   = 2 * time.Second
	orphanPoll  = 10 * time.Millisecond
)

// lock takes the lock of the container that env names, as a file to hand to the
// plugin: who inherits it holds it. It waits for a plugin that a dead daemon
// left, within limits. One that has had the time that a plugin may take is then killed:
// what it holds is kept from others too. Without a container, or a folder, there is none.
func (p *plugins) lock(ctx context.Context, env []string) (*os.File, error) {
	id := containerOf(env)
	if p.locks == "" || id == "" {
		return nil, nil
	}
	if err := os.MkdirAll(p.locks, 0o700); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	f, err := os.OpenFile(p.lockPath(id), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	held, err := awaitLock(ctx, f, p.patience)
	if held && err == nil && ctx.Err() == nil {
		if ended := endHolders(f, p.deadline); ended > 0 {
			klog.FromContext(ctx).Info("A CNI plugin of an earlier berthd hung, and was killed", "container", id, "processes", ended)
			held, err = awaitLock(ctx, f, orphanEnd)
		}
		if held {
			klog.FromContext(ctx).Info("A CNI plugin of an earlier berthd still runs; going on beside it", "container", id)
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock: %w", err)
	}
	return f, nil
}

// awaitLock takes the lock. It is held by another still when limit is over, or ctx.
func awaitLock(ctx context.Context, f *os.File, limit time.Duration) (held bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		if held, err = tryLock(f); !held || err != nil || ctx.Err() != nil {
			return held, err
		}
		wait(ctx, orphanPoll)
	}
}

// endHolders kills the plugins that hold a lock, and all of theirs that do, when they have run for as long
// as a plugin may. It counts the processes. Who has the file open without holding the lock was left by
// a plugin that has ended, and so was who holds it without the plugin, which leads its group.
func endHolders(lock *os.File, deadline time.Duration) (ended int) {
	fds := holders(lock)
	for pid, isHolder := range fds {
		leader := groupOf(pid)
		if fds[leader] != nil && age(leader) >= deadline && killIf(pid, isHolder) {
			ended++
		}
	}
	return ended
}

// holders are the other processes that hold a lock, each with a look whether it still does.
func holders(lock *os.File) map[int]func() bool {
	found := map[int]func() bool{}
	path, err := os.Readlink(fmt.Sprint("/proc/self/fd/", lock.Fd()))
	if err != nil {
		return nil
	}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		holds := func() bool {
			if target, err := os.Readlink(fd); err != nil || target != path {
				return false
			}
			info, _ := os.ReadFile(strings.Replace(fd, "/fd/", "/fdinfo/", 1))
			return strings.Contains(string(info), "FLOCK") // proc_pid_fdinfo(5)
		}
		if pid, err := strconv.Atoi(strings.Split(fd, "/")[2]); err == nil && pid != os.Getpid() && holds() {
			found[pid] = holds
		}
	}
	return found
}

// release gives a lock back, also from what the plugin has left running: only a
// plugin that outlives this process goes on holding it.
func release(lock *os.File) {
	if lock != nil {
		dropLock(lock)
		lock.Close()
	}
}

// unlock forgets a container's lock. An absent one is fine.
func (p *plugins) unlock(id string) error {
	if p.locks == "" {
		return nil
	}
	if err := os.Remove(p.lockPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("lock: %w", err)
	}
	return nil
}

func (p *plugins) lockPath(id string) string { return filepath.Join(p.locks, filepath.Base(id)) }

// containerOf is the container that a plugin is called for.
func containerOf(env []string) string {
	for _, e := range env {
		if id, ok := strings.CutPrefix(e, "CNI_CONTAINERID="); ok {
			return id
		}
	}
	return ""
}
