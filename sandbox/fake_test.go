package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/netns"
	"github.com/berthd/berth/shim"
	"github.com/berthd/berth/snapshot"
)

var errFault = errors.New("injected fault")

// A fakeNode is the neighbours of this package: what they keep is in maps, and
// any call may be made to fail before or after its effect. It checks order
// (addresses go before namespaces, tasks before roots) instead of recording calls.
type fakeNode struct {
	t *testing.T

	mu      sync.Mutex
	noIDMap error           // what CheckIDMap answers
	fail    string          // the call that fails
	late    bool            // after its effect
	arrived chan struct{}   // when set, Tasks.Create says here that it was called,
	let     chan struct{}   // and waits for this
	hung    chan struct{}   // when set, Network.Detach says here that it was called,
	unhang  chan struct{}   // and waits for this
	onStart func(id string) // when set, Tasks.Start calls it before it returns
	// startError is Tasks.Start's, whatever it has done.
	startError error
	names      map[string]bool
	address    map[string]bool
	roots      map[string]bool
	tasks      map[string]*fakeTask
}

type fakeTask struct {
	podID   string
	running bool
	silent  bool          // its keeper does not answer
	exit    chan struct{} // closed when it has ended
	code    int32
	at      time.Time
	updates []shim.UpdateRequest
}

func newFakeNode(t *testing.T) *fakeNode {
	return &fakeNode{t: t, names: map[string]bool{}, address: map[string]bool{}, roots: map[string]bool{}, tasks: map[string]*fakeTask{}}
}

// call does effect unless the call is the one to fail.
func (f *fakeNode) call(name string, effect func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	fails := f.fail == name || f.fail == "Network" && (name == "Network.Attach" || name == "Network.Detach") || f.fail == "Tasks" && name == "Tasks.Delete"
	if fails && !f.late {
		return fmt.Errorf("%s: %w", name, errFault)
	}
	effect()
	if fails {
		return fmt.Errorf("%s: %w", name, errFault)
	}
	return nil
}

func (f *fakeNode) setFault(name string, late bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail, f.late = name, late
}

// left is what the neighbours still keep.
func (f *fakeNode) left() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []string
	for kind, m := range map[string]map[string]bool{"namespace": f.names, "address": f.address, "root": f.roots} {
		for id := range m {
			list = append(list, kind+" "+id)
		}
	}
	for id := range f.tasks {
		list = append(list, "task "+id)
	}
	slices.Sort(list)
	return list
}

type fakeNamespaces struct{ *fakeNode }

func (f fakeNamespaces) Create(_ context.Context, id string, _ netns.Kinds) (p netns.Paths, err error) {
	err = f.call("Namespaces.Create", func() { f.names[id] = true; p = netns.Paths{Net: "/n/" + id, IPC: "/i", UTS: "/u"} })
	return p, err
}

func (f fakeNamespaces) Remove(_ context.Context, id string) error {
	return f.call("Namespaces.Remove", func() {
		if f.address[id] {
			f.t.Errorf("namespaces of %s go before its address", id)
		}
		delete(f.names, id)
	})
}

func (f fakeNamespaces) List() ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.names)), nil
}

type fakeNetwork struct{ *fakeNode }

func (f fakeNetwork) Conf() (conf []byte, err error) {
	err = f.call("Network.Conf", func() { conf = []byte(`{"name":"fake"}`) })
	return conf, err
}

func (f fakeNetwork) Attach(_ context.Context, a netns.Attachment) (r netns.Result, err error) {
	err = f.call("Network.Attach", func() { f.address[a.PodID] = true; r.IPs = []string{"10.0.0.9"} })
	return r, err
}

// hangDetach makes the next DEL that gets there hang until let is closed.
func (f *fakeNode) hangDetach() (hung, let chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hung, f.unhang = make(chan struct{}), make(chan struct{})
	return f.hung, f.unhang
}

func (f fakeNetwork) Detach(_ context.Context, a netns.Attachment) error {
	f.mu.Lock()
	hung, let := f.hung, f.unhang
	f.hung = nil
	f.mu.Unlock()
	if hung != nil {
		close(hung)
		<-let
	}
	return f.call("Network.Detach", func() {
		if string(a.Conf) != `{"name":"fake"}` {
			f.t.Errorf("detach with configuration %q", a.Conf)
		}
		delete(f.address, a.PodID)
	})
}

func (f fakeNetwork) GC(_ context.Context, live []netns.Attachment) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range f.address {
		if !slices.ContainsFunc(live, func(a netns.Attachment) bool { return a.PodID == id }) {
			if !f.names[id] {
				f.t.Errorf("namespaces of %s went before its address", id)
			}
			delete(f.address, id)
		}
	}
	return nil
}

type fakeRoots struct{ *fakeNode }

func (f fakeRoots) Prepare(_ context.Context, id string, _ []digest.Digest, _ ...snapshot.RootOption) (m []snapshot.Mount, err error) {
	err = f.call("Roots.Prepare", func() { f.roots[id] = true; m = []snapshot.Mount{{Type: "tmpfs", Source: "berth-test"}} })
	return m, err
}

func (f fakeRoots) CheckIDMap(context.Context, snapshot.IDMap) error { return f.noIDMap }

func (f fakeRoots) View(_ context.Context, id string, _ []digest.Digest, _ ...snapshot.RootOption) (m []snapshot.Mount, err error) {
	err = f.call("Roots.View", func() { f.roots[id] = true; m = []snapshot.Mount{{Type: "tmpfs", Source: "berth-test"}} })
	return m, err
}

func (f fakeRoots) Remove(_ context.Context, id string) error {
	return f.call("Roots.Remove", func() {
		if f.tasks[id] != nil {
			f.t.Errorf("root of %s goes before its task", id)
		}
		delete(f.roots, id)
	})
}

func (f fakeRoots) Usage(_ context.Context, id string) (snapshot.Usage, error) {
	u := snapshot.Usage{Bytes: 4096, Inodes: 1}
	err := f.call("Roots.Usage", func() {})
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && !f.roots[id] {
		err = snapshot.ErrNotFound
	}
	return u, err
}

func (f fakeRoots) ListRoots(context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.roots)), nil
}

type fakeImages struct{ *fakeNode }

func (f fakeImages) Get(ref string) (img imageservice.Image, err error) {
	if ref == "missing" {
		return img, fmt.Errorf("image %s: %w", ref, imageservice.ErrNotFound)
	}
	err = f.call("Images.Get", func() {
		img = imageservice.Image{ID: digest.FromString("image"), Config: imageservice.Config{Cmd: []string{"/bin/true"}}}
		if ref == "artifact" {
			img = imageservice.Image{ID: digest.FromString(ref), ArtifactType: "application/x-model"}
		}
	})
	return img, err
}

func (f fakeImages) Collect(context.Context) error { return nil }

type fakeTasks struct{ *fakeNode }

func (f fakeTasks) Create(_ context.Context, r shim.CreateRequest) (pid int, err error) {
	if f.arrived != nil {
		close(f.arrived)
		<-f.let
	}
	err = f.call("Tasks.Create", func() {
		f.tasks[r.ID] = &fakeTask{podID: r.PodID, exit: make(chan struct{})}
		pid = os.Getpid() // a live one, so that it has a PID namespace to pin
	})
	return pid, err
}

func (f fakeTasks) Start(_ context.Context, id string) error {
	err := f.call("Tasks.Start", func() { f.tasks[id].running = true })
	if f.onStart != nil {
		f.onStart(id)
	}
	return errors.Join(err, f.startError)
}

func (f fakeTasks) Update(_ context.Context, r shim.UpdateRequest) error {
	return f.call("Tasks.Update", func() { f.tasks[r.ID].updates = append(f.tasks[r.ID].updates, r) })
}

func (f fakeTasks) Kill(_ context.Context, id string, signal int, _ bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail == "Tasks.Kill" || f.fail == "Tasks" {
		return fmt.Errorf("kill: %w", errFault)
	}
	if f.tasks[id] == nil {
		return fmt.Errorf("task %s: %w", id, shim.ErrNotFound)
	}
	if signal == sigkill {
		f.endLocked(id, 137)
	}
	return nil
}

func (f *fakeNode) endLocked(id string, code int32) {
	select {
	case <-f.tasks[id].exit:
	default:
		f.tasks[id].code, f.tasks[id].at, f.tasks[id].running = code, time.Now(), false
		close(f.tasks[id].exit)
	}
}

func (f fakeTasks) Wait(ctx context.Context, id string) (shim.Exit, error) {
	f.mu.Lock()
	task := f.tasks[id]
	f.mu.Unlock()
	if task == nil {
		return shim.Exit{}, fmt.Errorf("task %s: %w", id, shim.ErrUnavailable)
	}
	select {
	case <-task.exit:
		return shim.Exit{Code: task.code, At: task.at}, nil
	case <-ctx.Done():
		return shim.Exit{}, ctx.Err()
	}
}

func (f fakeTasks) OnExit(id string, then func(shim.Exit, error)) {
	go func() { then(f.Wait(context.Background(), id)) }()
}

func (f fakeTasks) Expect() {}

func (f fakeTasks) Delete(_ context.Context, id string) error {
	return f.call("Tasks.Delete", func() {
		if f.tasks[id] != nil {
			f.endLocked(id, 137)
			delete(f.tasks, id)
		}
	})
}

type fakeProcesses struct{ *fakeNode }

func (f fakeProcesses) State(_ context.Context, id string) (shim.TaskState, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := f.tasks[id]; t != nil && t.silent {
		return shim.TaskState{}, shim.ErrNoAnswer
	}
	return shim.TaskState{Status: shim.StatusRunning, Pid: os.Getpid()}, nil
}

func (f fakeProcesses) Tasks(context.Context) ([]shim.Task, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []shim.Task
	for id, t := range f.tasks {
		status := shim.StatusCreated
		select {
		case <-t.exit:
			status = shim.StatusExited
		default:
			if t.running {
				status = shim.StatusRunning
			}
		}
		task := shim.Task{}
		task.ID, task.PodID, task.Status = id, t.podID, status
		if t.silent {
			task.Status, task.Err = shim.StatusUnknown, shim.ErrNoAnswer
		}
		list = append(list, task)
	}
	return list, nil
}

func (f fakeProcesses) ExecSync(context.Context, shim.ExecRequest) (shim.ExecResult, error) {
	return shim.ExecResult{}, nil
}

func (f fakeProcesses) OpenSession(context.Context, shim.SessionRequest) (*shim.Session, error) {
	return nil, shim.ErrUnimplemented
}

func (f fakeProcesses) ReopenLog(context.Context, string) error { return nil }

// open opens a node over f with its folders in dir, as often as a test likes.
func (f *fakeNode) open(t *testing.T, dir string) *Node {
	t.Helper()
	n, err := Open(context.WithoutCancel(t.Context()), f.options(dir))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// options are those that open opens a node with.
func (f *fakeNode) options(dir string) Options {
	return Options{
		Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Handlers: map[string]Handler{"runc": {}}, PauseBinary: "/bin/true",
		Namespaces: fakeNamespaces{f}, Network: fakeNetwork{f}, Roots: fakeRoots{f}, Images: fakeImages{f}, Tasks: fakeTasks{f}, Processes: fakeProcesses{f},
		noSelfTest: true,
		pause:      func(int) time.Duration { return time.Millisecond },
	}
}
