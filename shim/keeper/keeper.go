package keeper

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/berthd/berth/crashpoint"
	"github.com/berthd/berth/rest"
	"github.com/berthd/berth/shim/api"
	"github.com/berthd/berth/shim/keeper/container"
	"github.com/berthd/berth/shim/keeper/logfile"
	"github.com/berthd/berth/shim/keeper/ociruntime"
	"github.com/berthd/berth/shim/keeper/pidfd"
	"github.com/berthd/berth/shim/keeper/procstat"
	"github.com/berthd/berth/shim/keeper/scope"
)

// Options say where a Keeper lives.
type Options struct {
	State   string // the daemon's state directory
	Dir     string // the shim's own folder in it
	Version string // of the release, for who asks

	// For an upgrade: the arguments of a program that takes over, and the listening socket,
	// as which it gets the same descriptor.
	Args     []string
	Listener *os.File
}

// A Keeper has the tasks of one shim process. It is safe for concurrent use.
type Keeper struct {
	o        Options
	ctx      context.Context // of what goes on between calls; it does not end
	nursery  *nursery
	filters  *container.Filters
	programs ociruntime.Programs
	systemd  scope.Systemd
	pools    *pools
	ends     *pidfd.Watch
	watchers watchers
	escrow   escrow
	gate     gate
	rest     rest.Rest
	heed     func()        // asks for the signals that we listen to
	resumed  bool          // it has taken over from another; set before it serves
	idle     chan struct{} // closed when there is nothing left to live for
	retired  chan struct{} // closed when no container runs after a SIGTERM

	mu       sync.Mutex
	tasks    map[string]*task
	execs    map[string]context.CancelFunc // running ExecSyncs by the caller's name
	conns    int
	retiring bool // there was a SIGTERM
	stopped  bool
}

// New returns a Keeper without tasks. The end of ctx means nothing to it.
func New(ctx context.Context, o Options) (*Keeper, error) {
	if err := os.MkdirAll(api.TaskDir(o.Dir), 0o700); err != nil {
		return nil, err
	}
	ends, err := pidfd.NewWatch()
	if err != nil {
		return nil, err
	}
	n := newNursery()
	return &Keeper{
		o:       o,
		ctx:     context.WithoutCancel(ctx),
		nursery: n,
		filters: container.NewFilters(n.wait),
		pools:   newPools(),
		ends:    ends,
		rest:    rest.New(),
		idle:    make(chan struct{}),
		retired: make(chan struct{}),
		tasks:   map[string]*task{},
		execs:   map[string]context.CancelFunc{},
	}, nil
}

// task finds a task by its ID.
func (k *Keeper) task(id string) (*task, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	t := k.tasks[id]
	if t == nil {
		return nil, fmt.Errorf("container %s: %w", id, errNotFound)
	}
	return t, nil
}

// list returns the tasks by ID.
func (k *Keeper) list() []*task {
	k.mu.Lock()
	defer k.mu.Unlock()
	ts := make([]*task, 0, len(k.tasks))
	for _, t := range k.tasks {
		ts = append(ts, t)
	}
	slices.SortFunc(ts, func(a, b *task) int { return cmp.Compare(a.rec.ID, b.rec.ID) })
	return ts
}

// create makes a task whose process waits to be run, and returns its process ID.
// When it fails nothing is left.
func (k *Keeper) create(ctx context.Context, rec taskID) (int, error) {
	t := newTask(rec)
	if err := t.rec.check(); err != nil {
		return 0, err
	}
	if err := t.lock(ctx); err != nil { // before anybody else can
		return 0, err
	}
	defer t.unlock()
	k.mu.Lock()
	switch {
	case k.stopped:
		k.mu.Unlock()
		return 0, fmt.Errorf("shim: shutting down: %w", errNotRunning)
	case k.tasks[t.rec.ID] != nil:
		k.mu.Unlock()
		return 0, fmt.Errorf("container %s: %w", t.rec.ID, errExists)
	}
	k.tasks[t.rec.ID] = t
	k.mu.Unlock()

	err := k.build(ctx, t)
	if err == nil {
		return t.snapshot().pid, nil
	}
	if left := k.tearDown(ctx, t); left != nil {
		return 0, fmt.Errorf("container %s: %w; then %v", t.rec.ID, err, left)
	}
	return 0, fmt.Errorf("container %s: %w", t.rec.ID, err)
}

// build makes what a task is made of, the record first. tearDown undoes it,
// wherever it stopped.
func (k *Keeper) build(ctx context.Context, t *task) error {
	if err := k.save(t); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	spec, err := readSpec(t.rec.Bundle)
	if err != nil {
		return err
	}
	if t.log, err = k.openLog(t.rec); err != nil {
		return err
	}
	if t.io, err = newStdio(t.rec.Terminal, t.rec.Stdin, t.rec.StdinOnce); err != nil {
		return err
	}
	init := container.Command{Process: spec.Process, Init: true, Files: t.io.theirs}
	if err := init.Check(); err != nil {
		return err
	}
	err = k.nursery.wait(func() (err error) { // who looks into a user namespace is a child
		t.c, err = k.newContainer(ctx, t.rec.Runtime, t.rec.bundle(spec))
		return err
	})
	if err != nil {
		return err
	}
	t.cg = newCgroup(t.c.Cgroups())
	crashpoint.At("start", t.rec.Bundle)
	// A creation that hangs, on a mount say, ends with the request.
	defer killWhen(ctx, t.cg)()
	p, err := k.nursery.start(func() (container.Process, error) { return t.c.Start(ctx, init) })
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w (%v)", context.Cause(ctx), err)
	}
	if err != nil {
		return err
	}
	crashpoint.At("adopt", t.rec.Bundle)
	t.exitOf = func() (int32, bool) { return exitCode(p.Wait()) }
	if err := k.adopt(t, p.Pid()); err != nil {
		return err
	}
	crashpoint.At("adopted", t.rec.Bundle)
	return context.Cause(ctx) // who asked may have gone just then: nobody would know of it
}

// openLog opens a task's log, and goes on with it where a predecessor has stopped.
func (k *Keeper) openLog(rec taskID) (*logfile.Log, error) {
	o := logfile.Options{Path: rec.LogPath, Bundle: rec.Bundle, Rate: rec.LogRate, Burst: rec.LogBurst, Going: rec.Pid != 0}
	return logfile.Open(o, k.pools.logs)
}

// adopt takes charge of a process that has just been started.
func (k *Keeper) adopt(t *task, pid int) error {
	h, err := pidfd.Open(pid)
	if err == nil {
		err = t.io.adopt()
	}
	t.oomBefore, t.oomAbove, t.oomNotes = t.cg.oomKills(), t.cg.oomKillsAbove(), t.cg.noteOOM()
	t.io.onStdinClosed = func() { k.escrow.dropFile(t.rec.ID, api.FileStdin) }
	t.began = procstat.Read(pid).Began
	t.begin(pid, h)
	if err == nil {
		err = k.save(t)
	}
	k.escrow.put(t)
	k.attend(t)
	return err
}

// attend logs what the task says and waits for its end.
func (k *Keeper) attend(t *task) {
	t.io.logTo(t.log, t.ended)
	k.ends.OnEnd(t.pidfd, func() { k.ended(t) })
}

// killLimit is how long processes are given to die of SIGKILL.
const killLimit = 10 * time.Second

// ended waits for the task's process, which has ended, and finishes the task: kills
// what it left, has its output logged, writes the exit record, and only then lets it
// be seen that it has exited.
func (k *Keeper) ended(t *task) {
	at := time.Now()
	leave, err := k.pass(k.ctx, "the end of a container", anEnd)
	if err != nil {
		return // never: the context has no end
	}
	defer leave()
	close(t.ended)
	t.joining.Lock()
	code, killed := t.exitOf()
	t.joining.Unlock()
	k.nursery.done(t.snapshot().pid)
	crashpoint.At("finish", t.rec.Bundle)
	t.finish(k.ctx, code, killed, at)
	k.watchers.tell(t.rec.ID)
	k.escrow.drop(t.rec.ID)
	crashpoint.At("finished", t.rec.Bundle)
	k.checkRetired()
}

// delete takes away all of a task.
func (k *Keeper) delete(ctx context.Context, id string) (api.ExitRecord, error) {
	t, err := k.task(id)
	if err != nil {
		return api.ExitRecord{}, err
	}
	t.killInit() // before the lock: a creation under way ends with it
	if err := t.lock(ctx); err != nil {
		return api.ExitRecord{}, fmt.Errorf("container %s: delete: %w", id, err)
	}
	defer t.unlock()
	if err := k.tearDown(ctx, t); err != nil {
		return api.ExitRecord{}, fmt.Errorf("container %s: delete: %w", id, err)
	}
	return t.snapshot().exit, nil
}

// tearDown undoes build. It succeeds when build never ran, stopped half-way, or
// was undone already. The caller holds the task's lock.
func (k *Keeper) tearDown(ctx context.Context, t *task) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killLimit)
	defer cancel()
	if err := t.stop(ctx); err != nil {
		return err
	}
	crashpoint.At("destroy", t.rec.Bundle)
	if t.c != nil {
		if err := k.nursery.wait(func() error { return t.c.Destroy(ctx) }); err != nil {
			return err
		}
	}
	if t.io != nil {
		t.io.close()
	}
	if t.log != nil {
		t.log.Close()
	}
	if err := k.unsave(t); err != nil {
		return err
	}
	k.escrow.drop(t.rec.ID)
	k.forget(t)
	k.checkRetired()
	return nil
}

// forget removes t, and with the last task perhaps the reason to live.
func (k *Keeper) forget(t *task) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.tasks[t.rec.ID] == t {
		delete(k.tasks, t.rec.ID)
	}
	k.checkIdleLocked()
}

// connected counts connections: d is 1 or -1.
func (k *Keeper) connected(d int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.conns += d
	k.checkIdleLocked()
}

func (k *Keeper) checkIdleLocked() {
	if k.conns == 0 && len(k.tasks) == 0 && !k.stopped {
		k.stopped = true
		close(k.idle)
	}
}

// shutDown ends the shim if it has no tasks.
func (k *Keeper) shutDown() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.tasks) > 0 {
		return fmt.Errorf("shim: %w", errBusy)
	}
	if !k.stopped {
		k.stopped = true
		close(k.idle)
	}
	return nil
}

// check refuses IDs and bundles that are not what the daemon makes.
func (r taskID) check() error {
	if r.ID == "" || r.ID != filepath.Base(r.ID) || r.ID[0] == '.' {
		return fmt.Errorf("container ID %q: %w", r.ID, errInvalid)
	}
	if !filepath.IsAbs(r.Bundle) {
		return fmt.Errorf("container %s: bundle %q is not an absolute path: %w", r.ID, r.Bundle, errInvalid)
	}
	if r.Runtime != "" && !filepath.IsAbs(r.Runtime) {
		return fmt.Errorf("container %s: runtime %q is not an absolute path: %w", r.ID, r.Runtime, errInvalid)
	}
	return nil
}
