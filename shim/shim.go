// Package shim is the daemon's side of the shims, the processes that keep
// containers alive. It starts them, finds them again, and asks them.
//
// One shim serves many pods; all containers of a pod are in the same one. A shim
// outlives the daemon: Close harms no container, and Open finds every shim and
// container again. A shim that dies is replaced, while the daemon runs or at Open: its
// successor gets back what the daemon has kept in escrow, and containers go on. Containers go by their IDs. Delete may be called at any time,
// and again after a crash of either side: it takes away whatever there is of a
// container, also when its shim is dead.
//
// Nothing is stored here. What a shim has is in its folder (package api), and
// what a container was is in the exit record of its bundle.
package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/berthd/berth/shim/api"
	"github.com/berthd/berth/shim/keeper/ociruntime"
	"k8s.io/klog/v2"
)

// What a caller may want to tell apart. Wrapped with the container's ID.
var (
	// ErrNotFound: there is no such container, or what was to be signalled has
	// exited.
	ErrNotFound = errors.New("not found")
	// ErrExists: a container of that ID is there already.
	ErrExists = errors.New("already exists")
	// ErrNotRunning: the container's state does not allow it.
	ErrNotRunning = errors.New("not running")
	// ErrTimeout: a command was killed because it outlived its timeout.
	ErrTimeout = errors.New("timed out")
	// ErrUnavailable: the container's shim is dead, and no exit record says what
	// became of the container.
	ErrUnavailable = errors.New("shim unavailable")
	// ErrNoAnswer: the container's shim is there but has not answered in time.
	// Nothing is known of the container: it may well be running.
	ErrNoAnswer = errors.New("shim does not answer")
	// ErrInvalid: the request cannot succeed as it is.
	ErrInvalid = errors.New("invalid request")
	// ErrUnimplemented: the shim does not know how.
	ErrUnimplemented = errors.New("not implemented")
	// ErrBelowUsage: the container uses more than the limit that was asked for.
	ErrBelowUsage = errors.New("limit below what is in use")
	// ErrBrokenRuntime: the program of the runtime that was asked for cannot be run,
	// hangs, or does not behave as an OCI runtime.
	ErrBrokenRuntime = ociruntime.ErrBroken
	// ErrRefused: the runtime cannot make or start a container of that configuration.
	ErrRefused = errors.New("refused by the runtime")
)

// Options say how shims are run.
type Options struct {
	Binary         string // the berth-shim binary
	State          string // the state directory; its parts are made as needed
	PodsPerProcess int    // 0 means 64; 1 gives each pod a shim of its own
	LogRate        int64  // bytes per second of a container's output that are logged; 0 is no limit
	LogBurst       int64  // bytes that may come at once all the same; 0 is a second's
	Verbosity      int    // of the shims' logs
}

const defaultPods = 64

// A Status says where a container is in its life.
type Status int

// The states of a container.
const (
	StatusUnknown Status = iota
	StatusCreated        // its process waits to run the command
	StatusRunning
	StatusExited
)

// Exit is how a container's process ended.
type Exit struct {
	Code      int32 // 128 + signal when it was killed
	At        time.Time
	OOMKilled bool // by the kernel, for want of memory
}

// TaskState is what a container's shim knows of it.
type TaskState struct {
	PodID  string
	Status Status
	Pid    int  // of its first process, in the host's PID namespace
	Exit   Exit // when Status is StatusExited
}

// A Task is one container.
type Task struct {
	ID     string
	Bundle string
	TaskState
	Err error // why the state is not known; wraps ErrUnavailable or ErrNoAnswer
}

// Shims are the shims of one state directory. It is safe for concurrent use;
// calls that change one container are for the caller to order.
type Shims struct {
	o      Options
	ctx    context.Context // of what goes on between calls; ended by Close
	cancel context.CancelFunc
	work   sync.WaitGroup
	// deletes holds a token for each "berth-shim delete" that runs.
	deletes chan struct{}

	orphans  sync.Once     // starts reapOrphans
	upgrades sync.Once     // starts keepCurrent
	look     chan struct{} // tells keepCurrent that there may be something to do

	mu    sync.Mutex
	procs map[string]*process // by shim ID
	tasks map[string]*entry   // by container ID
	heirs map[int]bool        // processes that dead shims have left, and that are waited for

	expectation expectation
	filters     filters

	doubted os.FileInfo // a program that did not go on with containers

	muteAfter time.Duration // muteAfter, but in tests
}

// Open finds the shims of o.State. Those that are dead are swept, except for the
// containers they leave, which Tasks reports until Delete. One that is alive but
// does not answer within 10 s keeps its containers and is asked on in the
// background; until it answers they are ErrNoAnswer. ctx bounds the search and
// not the life of the result.
//
// The process becomes a subreaper: see orphans.go.
func Open(ctx context.Context, o Options) (*Shims, error) {
	if o.PodsPerProcess <= 0 {
		o.PodsPerProcess = defaultPods
	}
	if err := becomeReaper(); err != nil {
		return nil, fmt.Errorf("shims: %w", err)
	}
	for _, dir := range []string{api.ShimsDir(o.State), api.RuncDir(o.State)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("shims: %w", err)
		}
	}
	s := &Shims{o: o, deletes: make(chan struct{}, maxDeletes), procs: map[string]*process{}, tasks: map[string]*entry{}, heirs: map[int]bool{}, look: make(chan struct{}, 1), muteAfter: muteAfter}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	dirs, err := os.ReadDir(api.ShimsDir(o.State))
	if err != nil {
		return nil, fmt.Errorf("shims: %w", err)
	}
	s.findAll(ctx, dirs)
	if err := ctx.Err(); err != nil {
		return nil, errors.Join(fmt.Errorf("shims: %w", err), s.Close())
	}
	return s, nil
}

// sweep removes the folder of a dead shim that has no containers left. The folder
// of one that can still be connected to stays, whatever its connection died of:
// it goes with the shim, or at the next Open.
func (s *Shims) sweep(p *process) {
	s.mu.Lock()
	if !p.isDead() || len(p.pods) > 0 {
		s.mu.Unlock()
		return
	}
	delete(s.procs, p.id)
	s.mu.Unlock()
	if p.accepts(s.ctx) {
		return
	}
	if err := os.RemoveAll(p.dir); err != nil {
		klog.ErrorS(err, "Sweeping a dead shim's folder", "shim", p.id)
	}
}

// Close drops the connections. Containers go on; shims without any end.
func (s *Shims) Close() error {
	s.cancel()
	s.mu.Lock()
	for _, p := range s.procs {
		p.close()
	}
	s.mu.Unlock()
	s.work.Wait()
	return nil
}
