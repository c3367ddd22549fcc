package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/shim"
)

// killLimit is how long a killed container may take to be gone.
const killLimit = 30 * time.Second

// Stop ends a container: its stop signal, then SIGKILL when timeout has passed
// (0: at once). It returns when the exit is on record. An unknown or exited
// container is fine. Callers do not wait for each other: the shortest timeout
// of all decides.
func (cs *Containers) Stop(ctx context.Context, id string, timeout time.Duration) error {
	c, err := cs.table.find(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("container: %w", err)
	}
	return cs.halt(ctx, c, timeout)
}

// halt is Stop of a container that is at hand.
func (cs *Containers) halt(ctx context.Context, c *Container, timeout time.Duration) error {
	switch c.Record().State {
	case Exited, Removing, Creating:
		return nil
	case Created:
		if c.Record().Refusal != "" { // there is no task
			cs.finish(ctx, c, ReasonError, codeKilled, "stopped before it was started")
			return nil
		}
		timeout = 0 // nothing of the image runs yet
	}
	if timeout > 0 {
		done, err := cs.ask(ctx, c, timeout)
		if done || err != nil {
			return err
		}
	}
	return cs.kill(ctx, c)
}

// ask sends the stop signal, once for all callers, and waits for the exit. It
// tells whether that came within timeout.
func (cs *Containers) ask(ctx context.Context, c *Container, timeout time.Duration) (done bool, err error) {
	if c.signalled.CompareAndSwap(false, true) {
		err := cs.opts.Tasks.Kill(ctx, c.Record().ID, c.Record().Stop, false)
		if err != nil && !errors.Is(err, shim.ErrNotFound) {
			klog.FromContext(ctx).Error(err, "Stop signal not delivered; the container will be killed", "container", c.Record().ID)
			return false, nil
		}
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-c.exited:
		return true, nil
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return false, fmt.Errorf("%s: waiting for it to stop: %w", c.what(), ctx.Err())
	}
}

// kill ends the container at once. When its keeper does not answer, what is left
// of it is killed through its cgroup.
func (cs *Containers) kill(ctx context.Context, c *Container) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killLimit)
	defer cancel()
	err := cs.opts.Tasks.Kill(ctx, c.Record().ID, sigkill, true)
	if err != nil && !errors.Is(err, shim.ErrNotFound) {
		cs.finish(ctx, c, ReasonLost, codeKilled, fmt.Sprintf("killed; its keeper did not answer: %v", err))
	}
	select {
	case <-c.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: killed, but not gone: %w", c.what(), ctx.Err())
	}
}

// watch records the container's exit, whenever it comes.
func (cs *Containers) watch(c *Container) {
	cs.background(func(ctx context.Context) {
		exit, err := cs.opts.Tasks.Wait(ctx, c.Record().ID)
		if ctx.Err() != nil {
			return // the daemon stops; the next one asks again
		}
		if err != nil {
			cs.finish(ctx, c, ReasonLost, codeKilled,
				fmt.Sprintf("the process that kept this container alive was lost, and the container was stopped: %v", err))
			return
		}
		cs.recordExit(c, exit)
	})
}

// recordExit puts an exit that the keeper saw on record.
func (cs *Containers) recordExit(c *Container, exit shim.Exit) {
	_ = c.move(Exited, func(r *ContainerRecord) {
		r.FinishedAt, r.ExitCode = exit.At.UnixNano(), exit.Code
		switch {
		case exit.OOMKilled:
			r.Reason = ReasonOOMKilled
		case exit.Code == 0:
			r.Reason = ReasonCompleted
		default:
			r.Reason = ReasonError
		}
		if r.StartedAt == 0 {
			r.StartedAt = r.FinishedAt
		}
	})
}
