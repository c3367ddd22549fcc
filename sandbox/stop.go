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

// signalLimit is how long a keeper may take to deliver a signal, and lostPause how
// long is waited before a container whose keeper is lost is tried again.
const (
	signalLimit = 10 * time.Second
	lostPause   = 10 * time.Second
)

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
	case Exited:
		<-c.exited // its end is announced, and its pod's comes after it
		return nil
	case Removing, Creating:
		return nil
	case Created:
		if c.Record().Refusal != "" { // there is no task
			return cs.finish(ctx, c, ReasonError, codeKilled, "stopped before it was started")
		}
		timeout = 0 // nothing of the image runs yet
	}
	defer c.stops.begin()()
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
		c.stops.at("stop signal; its shim is to send it")
		err := cs.signal(ctx, c, c.Record().Stop, false)
		if err != nil && !errors.Is(err, shim.ErrNotFound) {
			klog.FromContext(ctx).Error(err, "Stop signal not delivered; the container will be killed", "container", c.Record().ID)
			return false, nil
		}
	}
	c.stops.at(fmt.Sprintf("grace period; it has its stop signal, and is killed %v after it", timeout))
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

// signal sends a signal, whether or not the caller stays to see it.
func (cs *Containers) signal(ctx context.Context, c *Container, signal int, all bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), signalLimit)
	defer cancel()
	return cs.opts.Tasks.Kill(ctx, c.Record().ID, signal, all)
}

// kill ends the container at once. When its keeper does not answer, what is left
// of it is killed without it.
func (cs *Containers) kill(ctx context.Context, c *Container) error {
	c.signalled.Store(true)
	c.stops.at("kill; its shim is to kill it")
	err := cs.signal(ctx, c, sigkill, true)
	if err != nil && !errors.Is(err, shim.ErrNotFound) {
		c.stops.at("kill, without its shim")
		return cs.finish(ctx, c, ReasonLost, codeKilled, fmt.Sprintf("killed; its keeper did not answer: %v", err))
	}
	c.stops.at("killed; its end is waited for")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killLimit)
	defer cancel()
	select {
	case <-c.exited:
		return nil
	case <-cs.base.Done(): // nobody watches for the exit any more; the next daemon does
		return fmt.Errorf("%s: killed: %w", c.what(), ErrClosed)
	case <-ctx.Done():
		return fmt.Errorf("%s: killed, but not gone: %w", c.what(), ctx.Err())
	}
}

// watch has the container's exit recorded, whenever it comes.
func (cs *Containers) watch(c *Container) {
	cs.opts.Tasks.OnExit(c.Record().ID, func(exit shim.Exit, err error) {
		cs.background(func(ctx context.Context) { cs.ended(ctx, c, exit, err) })
	})
}

// ended records an exit, or that nobody will tell of it.
func (cs *Containers) ended(ctx context.Context, c *Container, exit shim.Exit, err error) {
	for ctx.Err() == nil { // else the daemon stops, and the next one asks again
		if err == nil {
			cs.recordExit(c, exit)
			return
		}
		if cs.lost(ctx, c, err) {
			return
		}
		exit, err = cs.opts.Tasks.Wait(ctx, c.Record().ID)
	}
}

// lost ends a container whose keeper is gone: nobody would see its exit or write
// its log. It tells whether that was possible; when not, it is to be tried again.
func (cs *Containers) lost(ctx context.Context, c *Container, cause error) bool {
	err := cs.finish(ctx, c, ReasonLost, codeKilled,
		fmt.Sprintf("the process that kept this container alive was lost, and the container was stopped: %v", cause))
	if err == nil {
		klog.FromContext(ctx).Info("A container's keeper was lost; the container was stopped", "container", c.Record().ID, "pod", c.Record().PodID, "err", cause)
		return true
	}
	klog.FromContext(ctx).Error(err, "A container without a keeper cannot be stopped; trying again", "container", c.Record().ID)
	timer := time.NewTimer(lostPause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return c.Record().State == Exited || c.gone.Load()
}

// endedEarly tells whether the process of a container that this daemon made ended by
// itself before anybody wanted it to run its command.
func (c *Container) endedEarly() bool {
	c.launch.mu.Lock()
	defer c.launch.mu.Unlock()
	return c.fresh && c.Record().State == Created && !c.launch.tried && !c.signalled.Load()
}

// recordExit puts an exit that the keeper saw on record.
func (cs *Containers) recordExit(c *Container, exit shim.Exit) {
	early := c.endedEarly()
	_ = c.move(Exited, func(r *ContainerRecord) {
		r.FinishedAt, r.ExitCode = exit.At.UnixNano(), exit.Code
		switch {
		case early && !exit.OOMKilled:
			r.Reason = ReasonStartError
			r.Message = fmt.Sprintf("its first process ended with code %d before the command could be started; a seccomp profile that forbids what every start needs does that", exit.Code)
		case exit.OOMKilled:
			r.Reason = ReasonOOMKilled
		case exit.Code == 0:
			r.Reason = ReasonCompleted
		default:
			r.Reason = ReasonError
		}
		if r.StartedAt == 0 || r.StartedAt > r.FinishedAt { // its start is noted after it, or by the next daemon
			r.StartedAt = r.FinishedAt
		}
	})
}
