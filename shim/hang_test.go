package shim_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthd/berth/shim"
	"github.com/berthd/berth/shim/api"
	taskapi "github.com/berthd/berth/shim/api/task"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// stop makes the host's only shim hang.
func (h *host) stop() shimProcess {
	h.t.Helper()
	shims := h.shimPids()
	if len(shims) != 1 {
		h.t.Fatalf("%d shims", len(shims))
	}
	h.signal(shims[0], unix.SIGSTOP)
	eventually(h.t, "a thread of the shim that runs", func() bool { // a busy machine takes its time
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", shims[0].pid))
		for _, stat := range stats {
			data, _ := os.ReadFile(stat)
			if !strings.Contains(string(data), ") T ") {
				return false
			}
		}
		return err == nil && len(stats) > 0
	})
	return shims[0]
}

func (h *host) signal(p shimProcess, sig unix.Signal) {
	h.t.Helper()
	if err := unix.Kill(p.pid, sig); err != nil {
		h.t.Fatal(err)
	}
}

// A shim that hangs while the daemon starts is not dead: its containers are
// there, can be waited for and deleted, and are known again when it goes on.
func TestShimHangsAtOpen(t *testing.T) {
	h := newHost(t)
	stay, leave, doomed := h.box("sleep 35101"), h.box("read _ < /test/go; exit 5"), h.box("sleep 35102")
	dir := leave.share()
	fifo(t, dir, "go")
	for _, b := range []*box{stay, leave, doomed} {
		b.start()
	}
	hung := h.stop()
	defer unix.Close(hung.fd)
	defer h.signal(hung, unix.SIGCONT)
	socket := h.socket()
	h.reopen()

	tasks, err := h.Tasks(t.Context())
	if err != nil || len(tasks) != 3 {
		t.Errorf("tasks = %+v, %v", tasks, err)
	}
	for _, task := range tasks {
		if task.Status != shim.StatusUnknown || task.PodID != "p-"+task.ID || !errors.Is(task.Err, shim.ErrNoAnswer) || errors.Is(task.Err, shim.ErrUnavailable) {
			t.Errorf("task %+v", task)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if exit, err := h.Wait(ctx, stay.id); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait = %+v, %v", exit, err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := h.Delete(ctx, doomed.id); err != nil {
		t.Errorf("delete = %v", err)
	}
	doomed.checkExecs("35102")
	if _, err := os.Stat(socket); err != nil {
		t.Errorf("its folder is gone: %v", err)
	}
	if exit := h.box("exit 6").run(); exit.Code != 6 { // another pod's, in another shim
		t.Errorf("exit = %+v", exit)
	}

	h.signal(hung, unix.SIGCONT)
	writeFifo(t, dir, "go")
	if exit := leave.wait(); exit.Code != 5 {
		t.Errorf("exit = %+v", exit)
	}
	// The end of a container may be told before the shim's answer to the question of Open.
	st, err := h.State(t.Context(), stay.id)
	for errors.Is(err, shim.ErrNoAnswer) && t.Context().Err() == nil {
		st, err = h.State(t.Context(), stay.id)
	}
	if err != nil || st.Status != shim.StatusRunning {
		t.Errorf("state = %+v, %v", st, err)
	}
	tasks, err = h.Tasks(t.Context())
	for _, task := range tasks {
		if task.ID == doomed.id || task.Err != nil {
			t.Errorf("task %+v", task)
		}
	}
	if err != nil || len(tasks) != 3 {
		t.Errorf("tasks = %+v, %v", tasks, err)
	}
}

// A shim that hangs while the daemon starts and then dies is replaced: its containers go on.
func TestShimHangsAndDies(t *testing.T) {
	h := newHost(t)
	b := h.box("sleep 35111")
	b.start()
	hung := h.stop()
	h.reopen()
	type end struct {
		exit shim.Exit
		err  error
	}
	waited := make(chan end, 1)
	go func() {
		exit, err := h.Wait(t.Context(), b.id)
		waited <- end{exit, err}
	}()
	h.signal(hung, unix.SIGKILL)
	hung.waitGone(t)
	h.awaitSuccessor(hung)
	if err := h.Kill(t.Context(), b.id, int(unix.SIGKILL), false); err != nil {
		t.Error(err)
	}
	if end := <-waited; end.err != nil || end.exit.Code != 137 {
		t.Errorf("wait = %+v", end)
	}
	if err := h.Delete(t.Context(), b.id); err != nil {
		t.Error(err)
	}
	b.checkExecs("35111")
}

// The containers of a shim that hangs can be deleted.
func TestDeleteHung(t *testing.T) {
	h := newHost(t)
	boxes := []*box{h.box("sleep 35121"), h.box("sleep 35122 & sleep 35123").withoutPIDs()}
	for _, b := range boxes {
		b.start()
	}
	hung := h.stop()
	defer unix.Close(hung.fd)
	goOn := sync.OnceFunc(func() { h.signal(hung, unix.SIGCONT) })
	defer goOn()
	for _, b := range boxes {
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
		defer cancel()
		if err := h.Delete(ctx, b.id); err != nil {
			t.Error(err)
		}
	}
	boxes[0].checkExecs("35121", "35122", "35123")
	goOn() // it has been told too, and forgets them
	shimAPI := h.dial(t)
	for _, b := range boxes {
		eventually(t, "the shim has the container", func() bool {
			_, err := shimAPI.State(t.Context(), &taskapi.StateRequest{Id: b.id})
			return status.Code(err) == codes.NotFound
		})
	}
}

// A shim that is stopped is not waited for: a new pod has another one at once.
func TestStoppedNotWaitedFor(t *testing.T) {
	h := newHost(t)
	h.SetMuteAfter(time.Hour)
	h.box("sleep 35195").start()
	hung := h.stop()
	defer unix.Close(hung.fd)
	defer h.signal(hung, unix.SIGCONT)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	other := h.box("sleep 35196")
	other.write()
	if _, err := h.Create(ctx, other.req); err != nil {
		t.Error(err)
	}
	if n := len(h.shimPids()); n != 2 {
		t.Errorf("%d shims", n)
	}
}

// Containers of a stopped shim can be stopped: they get their signal, and end when they are to, in
// no more time than with a shim; also when berthd has not heard of the shim since its start. When the shim
// goes on it forgets them, and whichever berthd there is by then does not take them for its own.
func TestStopWithoutShim(t *testing.T) {
	for _, tt := range []struct {
		name          string
		before, after bool // berthd is another one before they are stopped, and after
	}{{"same berthd", false, false}, {"another since", true, false}, {"another after", false, true}} {
		t.Run(tt.name, func(t *testing.T) { testStopWithoutShim(t, tt.before, tt.after) })
	}
}

func testStopWithoutShim(t *testing.T, before, after bool) {
	h := newHost(t)
	h.SetMuteAfter(time.Hour)
	b := h.box(`trap 'echo asked > /test/go' TERM; sleep 35199 & echo ready > /test/go; while :; do wait; done`)
	dir := b.share()
	fifo(t, dir, "go")
	b.start()
	if got := readFifo(t, dir, "go"); got != "ready" {
		t.Fatal(got)
	}
	shimAPI := h.dial(t)
	hung := h.stop()
	defer unix.Close(hung.fd)
	goOn := sync.OnceFunc(func() { h.signal(hung, unix.SIGCONT) })
	defer goOn()
	if before {
		h.reopen()
	}
	if err := h.Kill(t.Context(), b.id, int(unix.SIGTERM), false); err != nil {
		t.Error(err)
	}
	if got := readFifo(t, dir, "go"); got != "asked" {
		t.Error(got)
	}
	eventually(t, "the list says so", func() bool {
		return slices.ContainsFunc(h.List(), func(i shim.Info) bool { return strings.Contains(i.Problem, fmt.Sprintf("kill -CONT %d", hung.pid)) })
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour) // of which a shim that hangs has a half
	defer cancel()
	if err := h.Kill(ctx, b.id, int(unix.SIGKILL), true); !errors.Is(err, shim.ErrNoAnswer) {
		t.Errorf("kill: %v", err)
	}
	if err := h.Delete(ctx, b.id); err != nil {
		t.Error(err)
	}
	b.checkExecs("35199")
	if after {
		h.reopen()
	}
	goOn()
	eventually(t, "the shim forgets the container", func() bool {
		_, err := shimAPI.State(t.Context(), &taskapi.StateRequest{Id: b.id})
		return status.Code(err) == codes.NotFound
	})
	eventually(t, "all shims answer", func() bool {
		return !slices.ContainsFunc(h.List(), func(i shim.Info) bool { return i.Problem != "" })
	})
	if tasks, err := h.Tasks(t.Context()); err != nil || len(tasks) != 0 {
		t.Errorf("tasks: %+v, %v", tasks, err)
	}
}

// A shim that leaves a call without an answer has a stand-in before a pod asks for one.
func TestStandIn(t *testing.T) {
	h := newHost(t)
	b := h.box("sleep 35197")
	b.start()
	hung := h.stop()
	defer unix.Close(hung.fd)
	goOn := sync.OnceFunc(func() { h.signal(hung, unix.SIGCONT) })
	defer goOn()
	killed := make(chan error, 1)
	go func() { killed <- h.Kill(t.Context(), b.id, int(unix.SIGTERM), false) }()
	eventually(t, "another shim", func() bool { return len(h.shimPids()) == 2 })
	goOn()
	if err := <-killed; err != nil {
		t.Error(err)
	}
}

// A shim that hangs gets no new pod, and is no reason to say that none can be made. When it goes
// on it gets new pods again.
func TestNoNewPodForHung(t *testing.T) {
	h := newHost(t)
	for range 2 { // it is the fullest
		h.box("sleep 35191").start()
	}
	tasks := api.TaskDir(filepath.Dir(h.socket()))
	hung := h.stop()
	defer unix.Close(hung.fd)
	goOn := sync.OnceFunc(func() { h.signal(hung, unix.SIGCONT) })
	defer goOn()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	other := h.box("sleep 35192")
	other.write()
	if _, err := h.Create(ctx, other.req); err != nil {
		t.Errorf("create: %v", err)
	}
	if n := len(h.shimPids()); n != 2 {
		t.Errorf("%d shims", n)
	}
	if err := h.Check(ctx); err != nil {
		t.Errorf("check: %v", err)
	}

	goOn()
	eventually(t, "the shim gets new pods", func() bool {
		b := h.box("sleep 35193")
		b.start()
		_, err := os.Stat(filepath.Join(tasks, b.id+".json"))
		return err == nil
	})
}
