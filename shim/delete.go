package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/berthd/berth/shim/api"
	taskapi "github.com/berthd/berth/shim/api/task"
	"github.com/containerd/ttrpc"
)

// Delete kills a container's processes and takes away what there is of it, save
// the bundle. It may be repeated, and it works when the shim is dead. One that
// hangs is given half of the time that ctx has left, or 5 s; one that is stopped, none.
// It hears of it when it goes on. Absent is fine.
func (s *Shims) Delete(ctx context.Context, id string) error {
	e, err := s.entry(id)
	if err != nil {
		return s.deleteUnknown(ctx, id)
	}
	stopped := e.p.isStopped()
	if stopped {
		err = ErrNoAnswer
	} else {
		err = e.delete(ctx)
	}
	without := err != nil && ctx.Err() == nil &&
		(errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNoAnswer) || errors.Is(err, context.DeadlineExceeded))
	if without {
		err = s.deleteDead(ctx, api.TaskRecord{ID: id, Bundle: e.bundle, SystemdCgroup: e.systemd})
		if err == nil {
			err = remove(api.TaskPath(e.p.dir, id))
		}
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	forgotten := s.tasks[id] == e
	if forgotten {
		delete(s.tasks, id)
	}
	switch {
	case without && e.p.isSilent():
		e.p.deleted[id] = true
	case stopped:
		s.deleteLateLocked(e.p, id)
	}
	s.mu.Unlock()
	if forgotten {
		e.endDeleted()
		s.unplace(e.p, e.podID)
	}
	return nil
}

// hangLimit is how long a shim is given to delete a container when the caller has
// all the time in the world.
const hangLimit = 5 * time.Second

// delete has the shim delete the container, in its share of the time.
func (e *entry) delete(ctx context.Context) error {
	limit := hangLimit
	if deadline, ok := ctx.Deadline(); ok {
		limit = time.Until(deadline) / 2
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := e.p.call(ctx, func(c *ttrpc.Client) error {
		_, err := taskapi.NewTaskClient(c).Delete(ctx, &taskapi.DeleteRequest{Id: e.id})
		return err
	})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// deleteUnknown takes away a container that no shim has.
func (s *Shims) deleteUnknown(ctx context.Context, id string) error {
	if id == "" || id != filepath.Base(id) {
		return nil
	}
	if _, err := os.Lstat(filepath.Join(api.RuncDir(s.o.State), id)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return s.deleteDead(ctx, api.TaskRecord{ID: id})
}

// maxDeletes bounds the processes that delete containers without their shim: a
// node may have hundreds to be deleted at once.
const maxDeletes = 4

// deleteDead takes away a container without its shim.
func (s *Shims) deleteDead(ctx context.Context, rec api.TaskRecord) error {
	select {
	case s.deletes <- struct{}{}:
		defer func() { <-s.deletes }()
	case <-ctx.Done():
		return fmt.Errorf("container %s: delete without its shim: %w", rec.ID, context.Cause(ctx))
	}
	args := []string{"delete", "--state", s.o.State, "--id", rec.ID, "--bundle", rec.Bundle}
	if rec.SystemdCgroup {
		args = append(args, "--systemd-cgroup")
	}
	cmd := exec.CommandContext(ctx, s.o.Binary, args...)
	var stderr bytes.Buffer
	cmd.Dir, cmd.Stderr = "/", &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("container %s: delete without its shim: %w: %s", rec.ID, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
