package shim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/berthd/berth/shim/api"
	taskapi "github.com/berthd/berth/shim/api/task"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/anypb"
)

// An entry is a container and the shim that has it.
type entry struct {
	id, podID, bundle string
	systemd           bool
	recorded          bool // known from the shim's records and not from the shim
	p                 *process
	watched, awaited  bool          // guarded by Shims.mu: the end is waited for, with a call of its own
	done              chan struct{} // closed when it is over

	mu   sync.Mutex
	over bool // its exit is known, or never will be
	exit Exit
	err  error // instead of exit
	then []func(Exit, error)
}

func newEntry(id, podID, bundle string, p *process) *entry {
	return &entry{id: id, podID: podID, bundle: bundle, p: p, done: make(chan struct{})}
}

// entry finds a container.
func (s *Shims) entry(id string) (*entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.tasks[id]
	if e == nil {
		return nil, fmt.Errorf("container %s: %w", id, ErrNotFound)
	}
	return e, nil
}

// enterLocked makes a container known that its shim has had for a while.
func (s *Shims) enterLocked(e *entry) {
	s.tasks[e.id] = e
	e.p.pods[e.podID]++
}

// record reads the container's exit record.
func (e *entry) record() (Exit, error) {
	r, err := api.ReadExit(e.bundle)
	if err != nil {
		return Exit{}, err
	}
	return Exit{Code: r.Code, At: r.At, OOMKilled: r.OOMKilled}, nil
}

// ask asks the shim for the container's state.
func (e *entry) ask(ctx context.Context) (TaskState, error) {
	infos, err := e.p.list(ctx, e.id)
	if err != nil {
		return TaskState{}, err
	}
	return stateOf(infos[0]), nil
}

func stateOf(i *api.TaskInfo) TaskState {
	st := TaskState{PodID: i.PodId, Pid: int(i.Pid)}
	switch i.Status {
	case api.Status_CREATED:
		st.Status = StatusCreated
	case api.Status_RUNNING:
		st.Status = StatusRunning
	case api.Status_EXITED:
		st.Status = StatusExited
		st.Exit = Exit{Code: i.Exit.GetCode(), At: time.Unix(0, i.Exit.GetAtUnixNano()).UTC(), OOMKilled: i.Exit.GetOomKilled()}
	}
	return st
}

// CreateRequest describes a container. Bundle/config.json and what its root
// points to are ready.
type CreateRequest struct {
	ID            string
	PodID         string
	Bundle        string // absolute; the exit record goes there
	LogPath       string // of the CRI log; empty discards the output
	Terminal      bool
	Stdin         bool // keep a pipe to it open, for attach; otherwise /dev/null
	StdinOnce     bool
	SystemdCgroup bool
	Runtime       string // path of the OCI runtime program that runs it; "" is the shim itself
}

// undoLimit is how long a failed Create may take to clean up.
const undoLimit = 30 * time.Second

// Create makes a container up to the point where its process, whose ID it
// returns, waits to run the command. A command that is not there or not
// executable is an error here. After an error nothing is left.
func (s *Shims) Create(ctx context.Context, req CreateRequest) (pid int, err error) {
	opts, err := anypb.New(&api.CreateOptions{
		PodId: req.PodID, LogPath: req.LogPath, Stdin: req.Stdin, StdinOnce: req.StdinOnce, SystemdCgroup: req.SystemdCgroup, Runtime: req.Runtime,
		LogRate: s.o.LogRate, LogBurst: s.o.LogBurst,
	})
	if err != nil {
		return 0, err
	}
	p, err := s.place(ctx, req.PodID)
	if err != nil {
		return 0, fmt.Errorf("container %s: %w", req.ID, err)
	}
	e := newEntry(req.ID, req.PodID, req.Bundle, p)
	e.systemd = req.SystemdCgroup
	s.mu.Lock()
	if s.tasks[e.id] != nil {
		s.mu.Unlock()
		s.unplace(p, req.PodID)
		return 0, fmt.Errorf("container %s: %w", req.ID, ErrExists)
	}
	s.tasks[e.id] = e
	s.mu.Unlock()

	var resp *taskapi.CreateTaskResponse
	c, err := p.client(ctx, &p.usage.calls)
	if err == nil {
		resp, err = taskapi.NewTaskClient(c).Create(ctx, &taskapi.CreateTaskRequest{Id: req.ID, Bundle: req.Bundle, Terminal: req.Terminal, Options: opts})
		p.leave(&p.usage.calls)
		if err = fromWire(err); errors.Is(err, errLost) {
			s.lose(p, c)
		}
	}
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
		defer cancel()
		return 0, errors.Join(err, s.Delete(ctx, req.ID))
	}
	s.mu.Lock()
	s.watchLocked(e)
	s.mu.Unlock()
	s.learn(p)
	return int(resp.Pid), nil
}

// Start has a created container run its command. Not created: ErrNotRunning. When the shim
// is lost under the call, its successor says whether the command was run.
func (s *Shims) Start(ctx context.Context, id string) error {
	e, err := s.entry(id)
	if err != nil {
		return err
	}
	for {
		c, err := e.p.client(ctx, &e.p.usage.calls)
		if err != nil {
			return fmt.Errorf("container %s: %w", id, err)
		}
		_, err = taskapi.NewTaskClient(c).Start(ctx, &taskapi.StartRequest{Id: id})
		e.p.leave(&e.p.usage.calls)
		if err = fromWire(err); !errors.Is(err, errLost) || ctx.Err() != nil {
			return err
		}
		s.lose(e.p, c)
		st, serr := s.State(ctx, id)
		switch {
		case serr != nil:
			return errors.Join(err, serr)
		case st.Status != StatusCreated:
			return nil
		}
	}
}

// Kill sends a signal to a container's first process, or to all of its
// processes. One that has exited or is not there is ErrNotFound. When the shim dies
// under the call, the signal may be sent twice. A shim that is stopped is done without where
// that can be, and else ErrNoAnswer at once.
func (s *Shims) Kill(ctx context.Context, id string, signal int, all bool) error {
	if e, err := s.entry(id); err == nil && e.p.isStopped() {
		return e.killWithout(signal, all)
	}
	return s.onTask(ctx, id, func(t taskapi.TaskService) error {
		_, err := t.Kill(ctx, &taskapi.KillRequest{Id: id, Signal: uint32(signal), All: all})
		return err
	})
}

// onTask makes a call about a container that may be made again when its shim is lost under it.
func (s *Shims) onTask(ctx context.Context, id string, do func(taskapi.TaskService) error) error {
	e, err := s.entry(id)
	if err != nil {
		return err
	}
	defer e.p.suspect()()
	err = e.p.call(ctx, func(c *ttrpc.Client) error { return do(taskapi.NewTaskClient(c)) })
	if _, said := errors.AsType[*wireError](err); err != nil && !said {
		return fmt.Errorf("container %s: %w", id, err)
	}
	return err
}

// State returns a container's state, as its shim or else its exit record tells
// it. When neither does, ErrUnavailable, or ErrNoAnswer for a shim that has not
// answered since Open.
func (s *Shims) State(ctx context.Context, id string) (TaskState, error) {
	e, err := s.entry(id)
	if err != nil {
		return TaskState{}, err
	}
	if e.p.isSilent() {
		return e.posthumous(ErrNoAnswer)
	}
	st, err := e.ask(ctx)
	if errors.Is(err, ErrUnavailable) {
		return e.posthumous(err)
	}
	return st, err
}

// posthumous is the state of a container whose shim does not tell it.
func (e *entry) posthumous(cause error) (TaskState, error) {
	r, err := api.ReadExit(e.bundle)
	if err != nil {
		return TaskState{PodID: e.podID}, fmt.Errorf("container %s: %w", e.id, cause)
	}
	return TaskState{
		PodID: e.podID, Status: StatusExited, Pid: r.Pid,
		Exit: Exit{Code: r.Code, At: r.At, OOMKilled: r.OOMKilled},
	}, nil
}

// Tasks returns every container of every shim, also of those that are dead or have
// not answered: their containers have an exit record or an Err. A shim that does
// not answer holds it up for 10 s at most.
func (s *Shims) Tasks(ctx context.Context) ([]Task, error) {
	s.mu.Lock()
	byShim := map[*process][]*entry{}
	for _, e := range s.tasks {
		byShim[e.p] = append(byShim[e.p], e)
	}
	s.mu.Unlock()

	var mu sync.Mutex
	var tasks []Task
	var wg sync.WaitGroup
	for p, entries := range byShim {
		wg.Go(func() {
			found := p.tasks(ctx, entries)
			mu.Lock()
			defer mu.Unlock()
			tasks = append(tasks, found...)
		})
	}
	wg.Wait()
	return tasks, ctx.Err()
}

// tasks asks one shim for all it has.
func (p *process) tasks(ctx context.Context, entries []*entry) []Task {
	infos, err := p.listInTime(ctx)
	known := map[string]*api.TaskInfo{}
	for _, i := range infos {
		known[i.Id] = i
	}
	var tasks []Task
	for _, e := range entries {
		t := Task{ID: e.id, Bundle: e.bundle}
		switch i := known[e.id]; {
		case i != nil:
			t.TaskState = stateOf(i)
		case err == nil:
			continue // it is being created or deleted
		default:
			t.TaskState, t.Err = e.posthumous(err)
		}
		tasks = append(tasks, t)
	}
	return tasks
}

// listInTime asks for all tasks and does not wait for a shim that does not answer.
func (p *process) listInTime(ctx context.Context) ([]*api.TaskInfo, error) {
	if p.isSilent() {
		return nil, ErrNoAnswer
	}
	limited, cancel := context.WithTimeout(ctx, listLimit)
	defer cancel()
	infos, err := p.list(limited, "")
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	return infos, err
}
