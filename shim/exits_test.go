package shim_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/shim"
	shimapi "github.com/berthd/berth/shim/api"
	taskapi "github.com/berthd/berth/shim/api/task"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// told is what OnExit has said.
type told struct {
	exit shim.Exit
	err  error
}

// onExit asks to be told of the container's end.
func (b *box) onExit() <-chan told {
	c := make(chan told, 2) // once, and once too often
	b.h.OnExit(b.id, func(exit shim.Exit, err error) { c <- told{exit, err} })
	return c
}

func wantTold(t *testing.T, what string, c <-chan told, code int32, is error) {
	t.Helper()
	select {
	case got := <-c:
		if got.exit.Code != code || !errors.Is(got.err, is) {
			t.Errorf("%s: told %+v, want code %d and error %v", what, got, code, is)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("%s: not told", what)
	}
	select {
	case again := <-c:
		t.Errorf("%s: told again: %+v", what, again)
	default:
	}
}

// Ends are told of once, whoever tells: the shim, its successor, or the records.
func TestOnExit(t *testing.T) {
	h := newHost(t)
	quick := h.box("exit 3")
	quick.start()
	wantTold(t, "one that ends at once", quick.onExit(), 3, nil)
	wantTold(t, "one that has ended", quick.onExit(), 3, nil)

	var boxes []*box
	for range 4 {
		b := h.box("read x <>/test/go; exit 5")
		if err := unix.Mkfifo(filepath.Join(b.share(), "go"), 0o600); err != nil {
			t.Fatal(err)
		}
		b.start()
		boxes = append(boxes, b)
	}
	let := func(b *box) {
		if err := os.WriteFile(filepath.Join(h.state, "share-"+b.id, "go"), []byte("\n"), 0); err != nil {
			t.Fatal(err)
		}
	}
	first := boxes[0].onExit()
	let(boxes[0])
	wantTold(t, "one of many", first, 5, nil)

	// A new daemon is told of what has ended meanwhile; the former of nothing.
	third := boxes[2].onExit()
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	let(boxes[2])
	waitFile(t, shimapi.ExitPath(boxes[2].req.Bundle))
	h.reopen()
	wantTold(t, "one that ended without a daemon", boxes[2].onExit(), 5, nil)
	select {
	case got := <-third:
		t.Errorf("told after Close: %+v", got)
	default:
	}

	// A successor tells of what is to come, and again of what was: nobody hears that.
	second := boxes[1].onExit()
	shims := h.shimPids()
	if err := unix.Kill(shims[0].pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	shims[0].waitGone(t)
	let(boxes[1])
	wantTold(t, "one that ends while its shim is replaced", second, 5, nil)

	fourth := boxes[3].onExit()
	if err := h.Delete(t.Context(), boxes[3].id); err != nil {
		t.Fatal(err)
	}
	wantTold(t, "one that was deleted", fourth, 137, nil)
	wantTold(t, "nobody", (&box{h: h, id: "nobody"}).onExit(), 0, shim.ErrNotFound)
}

// A container that a shim's successor cannot take over has ended, as far as anybody knows. The
// successor ends as well, when there is another for the next pod.
func TestOnExitMissing(t *testing.T) {
	h := newHost(t)
	h.options.PodsPerProcess = 1
	h.reopen()
	spare, b := h.box("sleep 36003"), h.box("sleep 36004")
	spare.start()
	b.start()
	c := b.onExit()
	records, err := filepath.Glob(filepath.Join(h.state, "shims/*/tasks", b.id+".json"))
	if err != nil || len(records) != 1 {
		t.Fatal(records, err)
	}
	if err := h.Delete(t.Context(), spare.id); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(records[0], []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(filepath.Dir(records[0]))
	for _, p := range h.shimPids() {
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
		if err != nil || !strings.Contains(string(args), dir) {
			unix.Close(p.fd)
			continue
		}
		if err := unix.Kill(p.pid, unix.SIGKILL); err != nil {
			t.Error(err)
		}
		p.waitGone(t)
	}
	wantTold(t, "one that nobody has", c, 0, shim.ErrNotFound)
	if err := h.Delete(t.Context(), b.id); err != nil {
		t.Error(err)
	}
	b.checkExecs("36004")
	eventually(t, "two shims without containers", func() bool {
		shims := h.shimPids()
		for _, p := range shims {
			unix.Close(p.fd)
		}
		return len(shims) == 1
	})
}

// fakeShim is a shim of some release.
type fakeShim struct {
	taskapi.TaskService
	tasks []*shimapi.TaskInfo
	ends  map[string]chan struct{} // each closed when its task ends, and is waited for
	waits chan string              // of whom Wait is asked
	fails chan string              // Wait does, once for each: of whom it was asked
	tells chan string              // of ends, in a release that has Keeper.Exits; "" is for who asks
}

func (o fakeShim) Wait(ctx context.Context, req *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	select {
	case o.waits <- req.Id:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case o.fails <- req.Id:
		return nil, status.Error(codes.Internal, "no idea")
	case <-o.ends[req.Id]:
		return &taskapi.WaitResponse{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serve answers on the socket, in place of who did before, until it is told to stop.
func (o fakeShim) serve(t *testing.T, path string) (stop func()) {
	t.Helper()
	ln, err := net.Listen("unix", path+".new")
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	srv, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	keeper := &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"List": func(context.Context, func(any) error) (any, error) {
			return &shimapi.ListResponse{Tasks: o.tasks}, nil
		},
	}}
	if o.tells != nil {
		keeper.Streams = map[string]ttrpc.Stream{"Exits": {StreamingServer: true, Handler: func(ctx context.Context, stream ttrpc.StreamServer) (any, error) {
			o.tells <- ""
			for {
				select {
				case id := <-o.tells:
					if err := stream.SendMsg(&shimapi.ExitsChunk{Ids: []string{id}}); err != nil {
						return nil, err
					}
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
		}}}
	} else {
		taskapi.RegisterTaskService(srv, o)
	}
	srv.RegisterService("berth.shim.v1.Keeper", keeper)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(t.Context(), ln)
	}()
	return func() {
		t.Helper()
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		<-done
	}
}

// bury has a fake shim found dead, and takes its containers away.
func (h *host) bury(stop func(), boxes ...*box) {
	h.t.Helper()
	if err := h.Close(); err != nil {
		h.t.Error(err)
	}
	stop()
	h.reopen()
	for _, b := range boxes {
		if err := h.Delete(h.t.Context(), b.id); err != nil {
			h.t.Error(err)
		}
	}
}

// A shim of an earlier release is asked for each container, until it is of a later one.
func TestOnExitEarlier(t *testing.T) {
	h := newHost(t)
	dir := shimapi.ShimDir(h.state, "0123456789abcdef")
	if err := os.MkdirAll(shimapi.TaskDir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	o := fakeShim{ends: map[string]chan struct{}{}, waits: make(chan string), fails: make(chan string)}
	var boxes []*box
	for _, id := range []string{"c1", "c2"} {
		b := fakeBox(t, h, dir, id)
		o.tasks = append(o.tasks, b.info())
		o.ends[id] = make(chan struct{})
		boxes = append(boxes, b)
	}
	stop := o.serve(t, shimapi.SocketPath(dir))
	h.reopen()
	first, second := boxes[0].onExit(), boxes[1].onExit()
	asked := func() string {
		t.Helper()
		select {
		case id := <-o.waits:
			return id
		case <-time.After(10 * time.Second):
			t.Fatal("a shim is not asked for an end")
			return ""
		}
	}
	asked()
	asked()
	for range 2 {
		failed := <-o.fails
		if again := asked(); again != failed {
			t.Errorf("asked again for %s and not for %s", again, failed)
		}
	}
	boxes[0].ends(t, 7)
	close(o.ends["c1"])
	wantTold(t, "one of an earlier shim", first, 7, nil)

	// Another one of an earlier release is asked as well, once.
	stopOther := o.serve(t, shimapi.SocketPath(dir))
	stop()
	if id := asked(); id != "c2" {
		t.Errorf("asked for %s, which has ended", id)
	}

	later := fakeShim{tasks: o.tasks, tells: make(chan string)}
	stopLater := later.serve(t, shimapi.SocketPath(dir))
	stopOther()
	select {
	case <-later.tells:
	case id := <-o.waits:
		t.Fatalf("asked again for %s", id)
	case got := <-second:
		t.Fatalf("told %+v while the shim is of another release", got)
	case <-time.After(10 * time.Second):
		t.Fatal("the later shim is not asked for all")
	}
	boxes[1].ends(t, 8)
	later.tells <- "c2"
	wantTold(t, "one of a shim that is of a later release since", second, 8, nil)
	h.bury(stopLater, boxes...)
}

// A shim whose connection is lost between its first answer and the entering of its containers is
// looked for again, and not taken for dead.
func TestLostWhileMet(t *testing.T) {
	h := newHost(t)
	dir := shimapi.ShimDir(h.state, "0123456789abcdef")
	if err := os.MkdirAll(shimapi.TaskDir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	b := fakeBox(t, h, dir, "c1")
	o := fakeShim{tasks: []*shimapi.TaskInfo{b.info()}, tells: make(chan string)}
	stop := o.serve(t, shimapi.SocketPath(dir))
	if err := h.MeetLost(t.Context(), "0123456789abcdef", o.tasks); err != nil {
		t.Fatal(err)
	}
	told := b.onExit()
	select {
	case <-o.tells:
	case got := <-told:
		t.Fatalf("told %+v", got)
	case <-time.After(10 * time.Second):
		t.Fatal("the shim is not looked for")
	}
	b.ends(t, 9)
	o.tells <- b.id
	wantTold(t, "one of a shim that was lost while it was met", told, 9, nil)
	h.bury(stop, b)
}

// fakeBox is a container on a shim's record that no process runs in.
func fakeBox(t *testing.T, h *host, shimDir, id string) *box {
	t.Helper()
	b := &box{h: h, id: id}
	b.req.Bundle = filepath.Join(h.state, "containers", id)
	if err := os.MkdirAll(b.req.Bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := shimapi.WriteRecord(shimapi.TaskPath(shimDir, id), shimapi.TaskRecord{ID: id, PodID: "p1", Bundle: b.req.Bundle, Pid: 1}); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *box) info() *shimapi.TaskInfo {
	return &shimapi.TaskInfo{Id: b.id, PodId: "p1", Bundle: b.req.Bundle, Status: shimapi.Status_RUNNING, Pid: 1}
}

// ends writes how a container has ended.
func (b *box) ends(t *testing.T, code int32) {
	t.Helper()
	if err := shimapi.WriteRecord(shimapi.ExitPath(b.req.Bundle), shimapi.ExitRecord{Code: code, At: time.Now()}); err != nil {
		t.Fatal(err)
	}
}
