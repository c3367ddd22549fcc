package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/berthd/berth/crashpoint"
	"github.com/berthd/berth/shim/api"
	"github.com/berthd/berth/shim/keeper/container"
	"github.com/berthd/berth/shim/keeper/logfile"
	"github.com/berthd/berth/shim/keeper/pidfd"
	"github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/klog/v2"
)

// A phase is where a task is in its life: creating, created, running, exited,
// in this order, and a task may exit from any of them.
type phase int

const (
	creating phase = iota // not listed
	created               // its init waits to run the command
	running
	exited // and the exit record is written
)

// taskID is a task's record.
type taskID api.TaskRecord

// bundle is what a container is made of.
func (r taskID) bundle(spec *specs.Spec) container.Bundle {
	return container.Bundle{ID: r.ID, Dir: r.Bundle, SystemdCgroup: r.SystemdCgroup, Spec: spec}
}

// A task is one container and its first process. What is made in build is set
// before the task is created and does not change until tearDown; both hold the
// task's lock.
type task struct {
	rec taskID

	c         runtimeContainer
	cg        cgroup
	exitOf    func() (code int32, killed bool) // waits for the process, which has ended
	io        *stdio
	log       *logfile.Log
	oomBefore uint64    // kills for want of memory that are not its end; guarded by mu when it is created
	oomAbove  uint64    // the same of the cgroup above; see oomKillsAbove
	oomNotes  *oomNotes // nil where the counters stay

	ended chan struct{} // closed when it has been waited for
	told  chan uint32   // how it ended, from who has waited for it
	done  chan struct{} // closed when the status is exited

	// joining is read-locked while a command is started in the container, and
	// locked when its init is waited for: libcontainer joins the namespaces of a
	// process ID, which must not become another process's meanwhile.
	joining sync.RWMutex

	saving sync.Mutex // orders writes of the record
	gone   bool       // the record is not to be written again; guarded by saving

	op chan struct{} // holds a token while somebody changes the task: held across processes, so waited for with a context

	mu     sync.Mutex
	state  taskState
	pidfd  pidfd.Handle
	began  uint64 // see api.TaskRecord
	killed bool   // we sent SIGKILL to its init while that lived
	execs  int    // names the next command's cgroup
}

// A taskState is what others see of a task.
type taskState struct {
	status phase
	paused bool
	pid    int
	exit   api.ExitRecord
}

func newTask(rec taskID) *task {
	return &task{
		rec:   rec,
		ended: make(chan struct{}),
		told:  make(chan uint32, 1),
		done:  make(chan struct{}),
		op:    make(chan struct{}, 1),
	}
}

// lock orders what changes the task.
func (t *task) lock(ctx context.Context) error {
	select {
	case t.op <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t *task) unlock() { <-t.op }

func (t *task) snapshot() taskState {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state
}

// begin makes the task visible as created.
func (t *task) begin(pid int, h pidfd.Handle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state = taskState{status: created, pid: pid}
	t.pidfd = h
}

// run executes the command.
func (t *task) run(ctx context.Context) (int, error) {
	if err := t.lock(ctx); err != nil {
		return 0, err
	}
	defer t.unlock()
	st := t.snapshot()
	if st.status != created {
		return 0, fmt.Errorf("container %s: start: it is not in the created state: %w", t.rec.ID, errNotRunning)
	}
	alive, cancel := t.whileAlive(ctx)
	defer cancel()
	crashpoint.At("run", t.rec.Bundle)
	if err := t.c.Run(alive); err != nil {
		return 0, fmt.Errorf("container %s: start: %w", t.rec.ID, err)
	}
	crashpoint.At("running", t.rec.Bundle)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state.status == created {
		t.state.status = running
	}
	return st.pid, nil
}

// lateLimit is how long starting something may go on when the task's process has ended.
// What is started may have run to its end by then.
const lateLimit = 2 * time.Second

// whileAlive is ctx until the task's process has ended, and a little longer.
func (t *task) whileAlive(ctx context.Context) (alive context.Context, cancel func()) {
	alive, end := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-t.ended:
			if pauseFor(alive, lateLimit) == nil {
				end(fmt.Errorf("its process has ended: %w", errNotRunning))
			}
		case <-alive.Done():
		}
	}()
	return alive, func() { end(nil) }
}

// finish takes the task to exited. Its process has been waited for.
func (t *task) finish(ctx context.Context, code int32, killed bool, at time.Time) {
	if !t.c.OwnPIDs() { // the kernel has left the others alive
		ctx, cancel := context.WithTimeout(ctx, killLimit)
		if err := t.cg.killAll(ctx); err != nil {
			klog.ErrorS(err, "Killing what a container left behind", "container", t.rec.ID)
		}
		cancel()
	}
	oom := t.oomKilled(code, killed) // before the cgroup goes
	t.oomNotes.close()
	t.io.drain()
	crashpoint.At("drained", t.rec.Bundle)
	t.mu.Lock()
	rec := api.ExitRecord{Code: code, At: at.UTC(), OOMKilled: oom, Pid: t.state.pid, Version: api.RecordVersion}
	t.mu.Unlock()
	if err := api.WriteRecord(api.ExitPath(t.rec.Bundle), rec); err != nil && !errors.Is(err, os.ErrNotExist) {
		klog.ErrorS(err, "Exit record not written", "container", t.rec.ID)
	}
	t.mu.Lock()
	t.state.status, t.state.exit, t.state.paused = exited, rec, false
	t.pidfd.Close()
	t.mu.Unlock()
	close(t.done)
}

// killInit kills the task's process if there is one. What is left without it,
// finish kills.
func (t *task) killInit() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.state.status; s == created || s == running {
		_ = t.signalInitLocked(sigkill) // done already is fine
	}
}

// stop kills the task's processes and waits until it is finished.
func (t *task) stop(ctx context.Context) error {
	if t.c == nil {
		return nil
	}
	if t.snapshot().status == creating { // the start failed: libcontainer has killed what it started
		return t.cg.killAll(ctx)
	}
	t.killInit()
	if err := t.cg.killAll(ctx); err != nil {
		return err
	}
	select {
	case <-t.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("process %d does not die: %w", t.snapshot().pid, context.Cause(ctx))
	}
}

// signal sends sig to the task's process, or with all to every process in it.
func (t *task) signal(sig int, all bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state.status == exited {
		return fmt.Errorf("container %s: it has exited: %w", t.rec.ID, errNotFound)
	}
	err := t.signalInitLocked(sig)
	if errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("container %s: it has exited: %w", t.rec.ID, errNotFound)
	}
	if err != nil {
		return fmt.Errorf("container %s: %w", t.rec.ID, err)
	}
	if all {
		err = t.signalOthers(sig)
	}
	if sig == sigkill && t.cg.thaw() {
		t.state.paused = false
	}
	return err
}

// signalOthers sends sig to all processes of the task but its own first.
func (t *task) signalOthers(sig int) error {
	pids, err := t.cg.procs()
	if err != nil {
		return fmt.Errorf("container %s: %w", t.rec.ID, err)
	}
	for _, pid := range pids {
		if pid != t.state.pid {
			signalPid(pid, sig)
		}
	}
	return nil
}

// reopenLog moves a live task to a new log file. The log may be waiting for its
// disk, so nothing that others need is held.
func (t *task) reopenLog(ctx context.Context) error {
	if t.snapshot().status != running {
		return fmt.Errorf("container %s: %w", t.rec.ID, errNotRunning)
	}
	if err := t.log.Reopen(ctx); err != nil {
		return fmt.Errorf("container %s: %w", t.rec.ID, err)
	}
	return nil
}

// freeze stops all processes of a task, or lets them go on.
func (t *task) freeze(ctx context.Context, on bool) error {
	if err := t.lock(ctx); err != nil {
		return err
	}
	defer t.unlock()
	if t.snapshot().status != running {
		return fmt.Errorf("container %s: %w", t.rec.ID, errNotRunning)
	}
	change := t.c.Resume
	if on {
		change = t.c.Pause
	}
	if err := change(ctx); err != nil {
		return fmt.Errorf("container %s: %w", t.rec.ID, err)
	}
	t.mu.Lock()
	t.state.paused = on
	t.mu.Unlock()
	return nil
}

// maxSpec is more than any config.json needs, in bytes.
const maxSpec = 16 << 20

// readSpec reads a bundle's config.json.
func readSpec(bundle string) (*specs.Spec, error) {
	f, err := os.Open(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSpec))
	if err != nil {
		return nil, err
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	if spec.Process == nil || spec.Linux == nil {
		return nil, fmt.Errorf("%s: process and linux are needed: %w", f.Name(), errInvalid)
	}
	return &spec, nil
}
