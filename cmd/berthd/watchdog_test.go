package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/cmd/berthd/dump"
	"github.com/berthd/berth/held"
)

// lookedAt answers what the watchdog asks, but for while it is blocked.
type lookedAt struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	blocked chan struct{}
}

func (l lookedAt) Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{}, nil
}

func (l lookedAt) ListPodSandbox(ctx context.Context, _ *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	select {
	case <-l.blocked:
		<-ctx.Done()
		return nil, ctx.Err()
	default:
		return &runtimeapi.ListPodSandboxResponse{}, nil
	}
}

// TestWatchdog: systemd is told as long as the daemon answers, and not when it does not; then
// there is a dump, one and no more.
func TestWatchdog(t *testing.T) {
	dir := t.TempDir()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(dir, "s.sock"))
	if err != nil {
		t.Fatal(err)
	}
	daemon := lookedAt{blocked: make(chan struct{})}
	server := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(server, daemon)
	go server.Serve(listener) //nolint:errcheck // it ends with Stop
	defer server.Stop()

	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	const interval = 300 * time.Millisecond
	t.Setenv("NOTIFY_SOCKET", filepath.Join(dir, "notify"))
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt(interval.Microseconds(), 10))
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	heard := func(within time.Duration) string {
		buf := make([]byte, 1000)
		if err := notify.SetReadDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		n, err := notify.Read(buf)
		if err != nil {
			return ""
		}
		return string(buf[:n])
	}

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		newWatchdog(filepath.Join(dir, "s.sock"), &dump.Keeper{Dir: filepath.Join(dir, "dumps")}, func() string { return "pods: 3" }).run(ctx)
	}()
	for range 3 {
		if got := heard(10 * time.Second); got != "WATCHDOG=1\nSTATUS=pods: 3" {
			t.Fatalf("heard %q", got)
		}
	}
	close(daemon.blocked)
	for heard(interval) != "" { // what was under way
	}
	if got := heard(5 * interval); got != "" {
		t.Errorf("a daemon that hangs says %q", got)
	}
	if dumps, err := filepath.Glob(filepath.Join(dir, "dumps", "*.txt")); err != nil || len(dumps) != 1 {
		t.Errorf("dumps: %q, %v", dumps, err)
	}
	cancel()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("it goes on")
	}
}

// TestStuck: a daemon that answers while an operation of its waits for ever for another one is
// not told of to systemd, from the second look on; one that waits for somebody else is. There
// is a dump of both.
func TestStuck(t *testing.T) {
	dir := t.TempDir()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(dir, "s.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(server, lookedAt{blocked: make(chan struct{})})
	go server.Serve(listener) //nolint:errcheck // it ends with Stop
	defer server.Stop()
	r, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w := newWatchdog(filepath.Join(dir, "s.sock"), &dump.Keeper{Dir: filepath.Join(dir, "dumps")}, nil)
	dumps := func() int {
		w.kept <- struct{}{} // what is being written is there then
		<-w.kept
		list, err := filepath.Glob(filepath.Join(dir, "dumps", "*.txt"))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	begun, release, ended := make(chan struct{}), make(chan struct{}), make(chan struct{}, 2)
	operation := func(what string, wait func()) {
		go func() {
			held.Do(t.Context(), what, time.Nanosecond, func(context.Context) {
				begun <- struct{}{}
				wait()
			})
			ended <- struct{}{}
		}()
		<-begun
	}
	operation("waits for a disk", func() { _, _ = r.Read(make([]byte, 1)) })
	for range 3 {
		if !w.look(t.Context()) {
			t.Error("a restart would not help against a disk that hangs")
		}
	}
	if n := dumps(); n != 1 {
		t.Errorf("%d dumps, want one of that operation", n)
	}
	operation("waits for ever", func() { <-release })
	if !w.look(t.Context()) {
		t.Error("a first look is not enough")
	}
	if w.look(t.Context()) {
		t.Error("a deadlock is told of as sound")
	}
	if n := dumps(); n != 2 {
		t.Errorf("%d dumps, want one of each operation", n)
	}
	close(release)
	other.Close()
	<-ended
	<-ended
	if !w.look(t.Context()) {
		t.Error("it is over")
	}
}

// TestBusy: without systemd a daemon looks at itself only when something goes on for a while; while
// nothing is under way there is not even a timer.
func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatchdog("", nil, nil)
		looks := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for w.busy(ctx) {
				looks <- struct{}{}
			}
		}()
		none := func(why string, within time.Duration) {
			t.Helper()
			select {
			case <-looks:
				t.Errorf("it looks: %s", why)
			case <-time.After(within):
			}
		}
		none("nothing is under way", time.Hour)
		endStream := held.Begin(ctx, held.Stream, "GetContainerEvents")
		none("somebody listens to events", time.Hour)
		held.Begin(ctx, held.Call, "Version")()
		none("a call has come and gone", time.Hour)
		end := held.Begin(ctx, held.Call, "Status")
		begin := time.Now()
		<-looks
		<-looks
		if took := time.Since(begin); took != 2*lookEvery {
			t.Errorf("two looks at a call that does not end after %v", took)
		}
		synctest.Wait()
		end()
		endStream()
		none("all is over", time.Hour)
		cancel()
		held.Begin(ctx, held.Call, "Status")() // nobody of this test waits for the next thing
		<-ended
	})
}
