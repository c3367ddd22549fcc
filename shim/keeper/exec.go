package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/berthd/berth/shim/api"
	"github.com/berthd/berth/shim/keeper/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/klog/v2"
)

// An execution is one command run in a container to its end. It has a cgroup of
// its own inside the container's, so that whatever it leaves running can be found
// and killed, and nothing else is.
type execution struct {
	task  *task
	sub   cgroup
	name  string
	limit int64
	send  func(*api.ExecSyncChunk) error

	sending sync.Mutex // the two streams share send
}

// execSync runs a command and hands out its output and exit code through send.
// It returns ErrTimeout's cause, context.DeadlineExceeded, when the command
// outlived its timeout and was killed.
func (k *Keeper) execSync(ctx context.Context, req *api.ExecSyncRequest, send func(*api.ExecSyncChunk) error) error {
	t, err := k.task(req.Id)
	if err != nil {
		return err
	}
	var ps specs.Process
	if err := json.Unmarshal(req.Process, &ps); err != nil {
		return fmt.Errorf("exec in %s: process: %w: %w", req.Id, errInvalid, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if req.TimeoutNano > 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(req.TimeoutNano))
		defer cancel()
	}
	defer k.nameExec(req.ExecId, cancel)()

	name, err := t.nextExec()
	if err != nil {
		return err
	}
	sub, err := t.cg.makeSub(name)
	if err != nil {
		return fmt.Errorf("exec in %s: %w", req.Id, err)
	}
	x := &execution{task: t, sub: sub, name: name, limit: req.Limit, send: send}
	code, err := x.run(ctx, k, &ps, cancel)
	if ctx.Err() != nil {
		return fmt.Errorf("exec in %s: %w", req.Id, context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("exec in %s: %w", req.Id, err)
	}
	return send(&api.ExecSyncChunk{Done: true, ExitCode: code})
}

// run does it, and leaves nothing behind. A failing send ends the command
// through cancel: nobody listens any more.
func (x *execution) run(ctx context.Context, k *Keeper, ps *specs.Process, cancel func()) (int32, error) {
	defer x.cleanUp(ctx)
	defer x.killWhenOver(ctx)()

	var fds container.Files
	outR, err := pipeTo(&fds.Stdout)
	if err != nil {
		return 0, err
	}
	defer outR.Close()
	errR, err := pipeTo(&fds.Stderr)
	if err != nil {
		closeFiles(&fds)
		return 0, err
	}
	defer errR.Close()
	ps.Terminal = false
	oomBefore := x.task.cg.oomKills()
	p, err := x.start(ctx, k.nursery, ps, fds)
	closeFiles(&fds)
	if err != nil {
		return 0, err
	}
	var readers sync.WaitGroup
	x.read(&readers, k, outR, func(b []byte) *api.ExecSyncChunk { return &api.ExecSyncChunk{Stdout: b} }, cancel)
	x.read(&readers, k, errR, func(b []byte) *api.ExecSyncChunk { return &api.ExecSyncChunk{Stderr: b} }, cancel)

	code, _ := exitCode(p.Wait())
	k.nursery.done(p.Pid())
	if ctx.Err() == nil { // else it is we who have killed it
		x.task.killedBeside(code, oomBefore)
	}
	x.cleanUp(ctx)
	deadline := time.Now().Add(drainLimit)
	_ = outR.SetReadDeadline(deadline)
	_ = errR.SetReadDeadline(deadline)
	readers.Wait()
	return code, nil
}

// killWhenOver kills the command when ctx ends or its container does, until the
// result is called.
func (x *execution) killWhenOver(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	unhook := killWhen(ctx, x.sub)
	done := make(chan struct{})
	go func() {
		select {
		case <-x.task.ended:
			cancel()
		case <-done:
		}
	}()
	return func() {
		unhook()
		close(done)
		cancel()
	}
}

// start starts the command's process in the task's container.
func (x *execution) start(ctx context.Context, n *nursery, ps *specs.Process, fds container.Files) (container.Process, error) {
	cmd := container.Command{Process: ps, Files: fds, Controller: x.sub.controller, Sub: x.name}
	p, err := n.start(func() (container.Process, error) { return x.task.join(ctx, cmd) })
	if errors.Is(err, container.ErrProcess) {
		return nil, fmt.Errorf("%w: %w", errInvalid, err)
	}
	return p, err
}

// join starts a command in the task's container.
func (t *task) join(ctx context.Context, cmd container.Command) (container.Process, error) {
	t.joining.RLock()
	defer t.joining.RUnlock()
	select {
	case <-t.ended:
		return nil, errNotRunning
	default:
		alive, cancel := t.whileAlive(ctx) // the end is waited for under the lock that we hold
		defer cancel()
		return t.c.Start(alive, cmd)
	}
}

// read starts handing out one stream.
func (x *execution) read(wg *sync.WaitGroup, k *Keeper, f *os.File, chunk func([]byte) *api.ExecSyncChunk, cancel func()) {
	c := &capture{f: f, limit: x.limit, send: func(b []byte) error {
		x.sending.Lock()
		defer x.sending.Unlock()
		return x.send(chunk(b))
	}}
	wg.Go(func() {
		if err := c.run(k.pools.reads); err != nil {
			cancel()
		}
	})
}

// kill ends the command at once.
func (x *execution) kill() { _, _ = x.sub.killOnce() }

// release leaves to the container what its command has left running on purpose
// (a daemon that was started by hand). It then lives and dies as the container's
// own processes do. Whatever does not come along is killed by cleanUp.
func (x *execution) release() {
	for range releaseTries {
		pids, err := x.sub.procs()
		if err != nil || len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = x.task.cg.set("cgroup.procs", strconv.Itoa(pid)) // it may have ended
		}
	}
}

// releaseTries bounds how often release looks for what was forked meanwhile.
const releaseTries = 10

// cleanUp kills what is left of the command. It may be repeated.
func (x *execution) cleanUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killLimit)
	defer cancel()
	if err := x.sub.remove(ctx); err != nil {
		klog.ErrorS(err, "Cleaning up after a command", "container", x.task.rec.ID)
	}
}

// execPrefix begins the names of commands' cgroups.
const execPrefix = "exec-"

// nextExec names a command of a running task.
func (t *task) nextExec() (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state.status != running {
		return "", fmt.Errorf("container %s: %w", t.rec.ID, errNotRunning)
	}
	if t.state.paused {
		return "", fmt.Errorf("container %s: it is paused: %w", t.rec.ID, errNotRunning)
	}
	t.execs++
	return execPrefix + strconv.Itoa(t.execs), nil
}

// nameExec makes a command known by its caller's name for it until the result is
// called.
func (k *Keeper) nameExec(name string, cancel context.CancelFunc) (forget func()) {
	if name == "" {
		return func() {}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.execs[name] = cancel
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.execs, name)
	}
}

// cancelExec kills a command by its caller's name for it. An unknown one is
// fine.
func (k *Keeper) cancelExec(name string) {
	k.mu.Lock()
	cancel := k.execs[name]
	k.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}
