package sandbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/berthd/berth/shim"
)

// Containers is all containers of the node. It is safe for concurrent use.
type Containers struct {
	opts   Options
	bootID string
	pods   *Pods
	table  table[*Container]
	warned sync.Map // texts of warnings that were given

	base    context.Context // ends when the daemon stops; carries the logger
	cancel  context.CancelFunc
	closing sync.Mutex // held while it ends
	wg      sync.WaitGroup
}

// background runs work that belongs to no request until the daemon stops, and none after that.
func (cs *Containers) background(work func(context.Context)) {
	cs.closing.Lock()
	defer cs.closing.Unlock()
	if cs.base.Err() == nil {
		cs.wg.Go(func() { work(cs.base) })
	}
}

// close ends what background has started.
func (cs *Containers) close() {
	cs.closing.Lock()
	cs.cancel()
	cs.closing.Unlock()
	cs.wg.Wait()
}

// Create makes a container in a ready pod and returns its record once it can be
// started. A repeated call for the same name and attempt joins the creation
// under way, or returns what it made.
func (cs *Containers) Create(ctx context.Context, podID string, spec ContainerSpec) (ContainerRecord, error) {
	asked := time.Now()
	p, err := cs.pods.Get(podID)
	if err != nil {
		return ContainerRecord{}, err
	}
	if err := checkUserNamespace(p.Record(), spec); err != nil {
		return ContainerRecord{}, err
	}
	m := spec.Config.GetMetadata()
	what := fmt.Sprintf("container %s (attempt %d)", m.GetName(), m.GetAttempt())
	name := containerName(p.Record().ID, m)
	for {
		c, _, err := cs.table.claim(name, func() (*Container, error) { return cs.newContainer(p, spec) })
		if err != nil {
			return ContainerRecord{}, fmt.Errorf("%s: %w", what, err)
		}
		err = c.turn.do(ctx, what, "creation", containerCreateLimit, &c.trace, func(ctx context.Context) error {
			return cs.create(ctx, c, asked)
		})
		if errors.Is(err, errGone) {
			continue // removed between claim and creation: the name is free now
		}
		if err != nil {
			return ContainerRecord{}, inFront(fmt.Errorf("%s: %w", what, err))
		}
		return c.Record(), nil
	}
}

// newContainer is a container of which nothing exists yet.
func (cs *Containers) newContainer(p *Pod, spec ContainerSpec) (*Container, error) {
	cfg, err := newMessage(spec.Config)
	if err != nil {
		return nil, err
	}
	rec := ContainerRecord{ID: newID(), PodID: p.Record().ID, State: Creating, BootID: cs.bootID,
		CreatedAt: time.Now().UnixNano(), ContainerConfig: cfg}
	c := newContainer(p, rec, cs.opts.containerRecord(rec.PodID, rec.ID))
	c.fresh, c.listed = true, &cs.table.changes
	return c, nil
}

// create builds c, which was asked for then, unless that was done before. When it fails and cannot be
// undone either, the container stays, exited, so that kubelet removes it.
func (cs *Containers) create(ctx context.Context, c *Container, asked time.Time) error {
	switch s := c.Record().State; {
	case c.gone.Load():
		return errGone
	case s == Created || s == Running:
		return nil
	case s != Creating:
		return fmt.Errorf("is %s: %w", s, ErrNameTaken)
	}
	cs.opts.Tasks.Expect()
	c.trace.accepted(asked)
	left, err := build(ctx, c, &c.trace, cs.steps())
	cs.pods.readiness.creation(err)
	if left == nil {
		cs.pods.failures.note(Failure{Object: "container", ID: c.Record().ID, Name: c.shownName()}, &c.trace, err)
	}
	if left != nil {
		_ = c.move(Exited, func(r *ContainerRecord) {
			r.FinishedAt, r.ExitCode, r.Reason, r.Message = time.Now().UnixNano(), codeStartError, ReasonStartError, err.Error()
		})
		cs.table.put(c.Record().ID, c)
	}
	return err
}

// Start lets a created container's process run. When that fails the container
// stays, exited, with the reason, for kubelet to look at.
func (cs *Containers) Start(ctx context.Context, id string) error {
	c, err := cs.Get(id)
	if err != nil {
		return err
	}
	return c.turn.do(ctx, c.what(), "start", containerCreateLimit, &c.trace, func(ctx context.Context) error {
		err := c.trace.run(ctx, "start", func() error { return cs.start(ctx, c) })
		if err != nil || c.Record().State != Running { // else that it runs was noted with them
			c.noteStages()
		}
		return err
	})
}

func (cs *Containers) start(ctx context.Context, c *Container) error {
	if r := c.Record(); r.State == Exited && r.Reason == ReasonStartError {
		return fmt.Errorf("%s: %s: %w", c.what(), r.Message, ErrBadState)
	} else if r.State != Created {
		return fmt.Errorf("%s: is %s, only a created one can be started: %w", c.what(), r.State, ErrBadState)
	}
	if s := c.pod.Record().State; s != Ready {
		return fmt.Errorf("%s: its pod is %s: %w", c.what(), s, ErrBadState)
	}
	if why := c.Record().Refusal; why != "" {
		left := cs.finish(ctx, c, ReasonStartError, codeStartError, why)
		return withLeft(fmt.Errorf("%s: %w", why, shim.ErrRefused), left) // why names the container
	}
	c.starting()
	c.launch.try()
	if err := cs.opts.Tasks.Start(ctx, c.Record().ID); err != nil {
		if errors.Is(err, shim.ErrNotRunning) { // it is not created any more: it may have been started before a crash
			cs.learn(ctx, c)
			if c.Record().State == Running {
				c.launched(true)
				return fmt.Errorf("%s: is %s, only a created one can be started: %w", c.what(), Running, ErrBadState)
			}
		}
		left := cs.finish(ctx, c, ReasonStartError, codeStartError, err.Error())
		c.launched(false)
		return withLeft(fmt.Errorf("start: %w", err), left) // it names the container
	}
	// The process may have ended already; then the exit stands and this is not seen.
	err := c.runs()
	c.launched(true)
	if err != nil && c.Record().State != Exited {
		return err
	}
	return nil
}

// withLeft adds what went wrong in cleaning up to an error, which keeps its code.
func withLeft(err, left error) error {
	if left != nil {
		return fmt.Errorf("%w; then %v", err, left)
	}
	return err
}

// finish ends a container of which nothing may be left running, within a deadline
// of its own. While something may run, it is not reported as exited: kubelet would
// start another beside it. An exit that is on record already stands, unless the
// cause is that it could not be started: a watcher sees that exit too, but not its
// cause.
func (cs *Containers) finish(ctx context.Context, c *Container, reason string, code int32, why string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownLimit)
	defer cancel()
	if err := cs.opts.Tasks.Delete(ctx, c.Record().ID); err != nil {
		return fmt.Errorf("%s: kill what is left of it: %w", c.what(), err)
	}
	edit := func(r *ContainerRecord) {
		r.FinishedAt, r.ExitCode, r.Reason, r.Message = time.Now().UnixNano(), code, reason, why
	}
	if err := c.move(Exited, edit); err != nil && reason == ReasonStartError && c.Record().State == Exited {
		_ = c.note(edit)
	}
	if c.Record().State == Exited { // by now, or by its keeper's word a moment ago
		<-c.exited
	}
	return nil
}

// Remove takes away all of the container, its record last; a running one is
// killed first. An unknown container is fine; it may be repeated.
func (cs *Containers) Remove(ctx context.Context, id string) error {
	c, err := cs.table.find(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("container: %w", err)
	}
	return cs.removeContainer(ctx, c)
}

func (cs *Containers) removeContainer(ctx context.Context, c *Container) error {
	return c.turn.do(ctx, c.what(), "removal", 2*teardownLimit, &c.trace, func(ctx context.Context) error {
		return cs.remove(ctx, c)
	})
}

// remove runs inside c's turn. One that waited for another removal has nothing to
// do, and must not write the record again: its pod may be on the way out.
func (cs *Containers) remove(ctx context.Context, c *Container) error {
	if c.gone.Load() {
		return nil
	}
	if err := cs.halt(ctx, c, 0); err != nil {
		return err
	}
	if err := c.move(Removing, nil); err != nil {
		return err
	}
	if err := teardown(ctx, c, &c.trace, cs.steps()); err != nil {
		return fmt.Errorf("%s: %w", c.what(), err)
	}
	return nil
}

// Get returns the container with that ID or unique prefix of one.
func (cs *Containers) Get(id string) (*Container, error) {
	c, err := cs.table.find(id)
	if err != nil {
		return nil, fmt.Errorf("container: %w", err)
	}
	return c, nil
}

// List returns every container that was ever created and not yet removed.
func (cs *Containers) List() []*Container { return cs.table.all() }

// Changes counts the changes of what List returns: see Pods.Changes.
func (cs *Containers) Changes() uint64 { return cs.table.changes.Load() }

// ExecSync runs a command in a running container and returns what it wrote.
// It fails with shim.ErrTimeout when the command outlives timeout (0: no limit).
func (cs *Containers) ExecSync(ctx context.Context, id string, args []string, timeout time.Duration) (shim.ExecResult, error) {
	c, err := cs.running(id)
	if err != nil {
		return shim.ExecResult{}, err
	}
	process, err := cs.execProcess(c, args, false)
	if err != nil {
		return shim.ExecResult{}, err
	}
	res, err := cs.opts.Processes.ExecSync(ctx, shim.ExecRequest{
		ID: c.Record().ID, Process: process, Timeout: timeout, Limit: execOutputLimit,
	})
	if err != nil {
		return res, fmt.Errorf("%s: exec: %w", c.what(), err)
	}
	return res, nil
}

// execOutputLimit is how much of each stream ExecSync returns, in bytes (CRI,
// ExecSync). Package cri sees to it that both fit a message.
const execOutputLimit = 16 << 20

// ReopenLog makes a running container's log begin again at its path.
func (cs *Containers) ReopenLog(ctx context.Context, id string) error {
	c, err := cs.running(id)
	if err != nil {
		return err
	}
	if err := cs.opts.Processes.ReopenLog(ctx, c.Record().ID); err != nil {
		return fmt.Errorf("%s: reopen log: %w", c.what(), err)
	}
	return nil
}

// running returns the container if its process runs.
func (cs *Containers) running(id string) (*Container, error) {
	c, err := cs.Get(id)
	if err != nil {
		return nil, err
	}
	if s := c.Record().State; s != Running {
		return nil, fmt.Errorf("%s: is %s, not running: %w", c.what(), s, ErrBadState)
	}
	return c, nil
}
