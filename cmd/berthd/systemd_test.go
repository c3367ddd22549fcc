package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// versionOnly answers Version, but for while it is blocked.
type versionOnly struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	blocked chan struct{}
}

func (v versionOnly) Version(ctx context.Context, _ *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	select {
	case <-v.blocked:
		<-ctx.Done()
		return nil, ctx.Err()
	default:
		return &runtimeapi.VersionResponse{}, nil
	}
}

// TestKeepAlive: the watchdog is told as long as the daemon answers, and not when
// it does not.
func TestKeepAlive(t *testing.T) {
	dir := t.TempDir()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(dir, "s.sock"))
	if err != nil {
		t.Fatal(err)
	}
	daemon := versionOnly{blocked: make(chan struct{})}
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
		keepAlive(ctx, filepath.Join(dir, "s.sock"), func() string { return "pods: 3" })
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
	cancel()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("it goes on")
	}
}

func TestTell(t *testing.T) {
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	t.Setenv("NOTIFY_SOCKET", notify.LocalAddr().String())
	tell("", "Finding pods")
	tell("READY=1", "Serving")
	for _, want := range []string{"STATUS=Finding pods", "READY=1\nSTATUS=Serving"} {
		buf := make([]byte, 1000)
		n, err := notify.Read(buf)
		if err != nil || strings.TrimSpace(string(buf[:n])) != want {
			t.Errorf("heard %q, %v", buf[:n], err)
		}
	}
}
