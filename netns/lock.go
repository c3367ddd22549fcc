package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/klog/v2"
)

// How long a plugin of a daemon that died is waited for, and how often it is
// looked for. It has had its time; a plugin that hangs must not keep its pod.
const (
	orphanLimit = 10 * time.Second
	orphanPoll  = 10 * time.Millisecond
)

// lock takes the lock of the container that env names, as a file to hand to the
// plugin: who inherits it holds it. It waits for a plugin that a dead daemon
// left, within limits. Without a container, or a folder, there is none.
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
	orphan, cancel := context.WithTimeout(ctx, orphanLimit)
	defer cancel()
	for {
		held, err := tryLock(f)
		switch {
		case err != nil:
			f.Close()
			return nil, fmt.Errorf("lock: %w", err)
		case !held:
			return f, nil
		case orphan.Err() != nil:
			klog.FromContext(ctx).Info("A CNI plugin of an earlier berthd still runs; going on beside it", "container", id)
			return f, nil
		}
		wait(orphan, orphanPoll)
	}
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
