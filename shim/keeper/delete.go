package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/berthd/berth/shim/api"
	"github.com/berthd/berth/shim/keeper/container"
)

// Delete takes away a container whose shim is dead: its processes, cgroups and its
// runtime's state under the state directory. Absent is fine.
func Delete(ctx context.Context, state string, rec api.TaskRecord) error {
	runcDir := api.RuncDir(state)
	c, err := load(runcDir, rec.ID)
	if container.NotExist(err) {
		err = sweep(ctx, runcDir, rec)
	} else if err == nil {
		if err = newCgroup(c.Cgroups()).killAll(ctx); err == nil {
			err = destroy(ctx, c)
		}
	}
	if err != nil {
		return fmt.Errorf("container %s: delete: %w", rec.ID, err)
	}
	return nil
}

// load finds a container again, whatever runs it.
func load(runcDir, id string) (runtimeContainer, error) {
	c, err := loadProgram(runcDir, id)
	if !errors.Is(err, os.ErrNotExist) {
		return c, err
	}
	return container.Load(runcDir, id)
}

// destroy removes what is left of a container whose processes were killed. Its
// init, which has left the cgroup by then, is not dead before somebody has waited
// for the commands that joined its PID namespace; with the shim gone, that is the
// host's init.
func destroy(ctx context.Context, c runtimeContainer) error {
	ctx, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	for {
		err := c.Destroy(ctx)
		if !container.StillRuns(err) || pauseFor(ctx, time.Millisecond) != nil {
			return err
		}
	}
}

// sweep is Delete for a creation that was cut short before libcontainer saved
// its state: the bundle says where the cgroups would be.
func sweep(ctx context.Context, runcDir string, rec api.TaskRecord) error {
	dir := filepath.Join(runcDir, rec.ID)
	spec, err := readSpec(rec.Bundle)
	if err != nil {
		return os.RemoveAll(dir) // no bundle, no process
	}
	set, err := container.CgroupsOf(taskID(rec).bundle(spec))
	if err != nil {
		return os.RemoveAll(dir) // no container comes of such a spec
	}
	if err := newCgroup(set.Paths()).killAll(ctx); err != nil {
		return err
	}
	if err := set.Destroy(ctx); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
