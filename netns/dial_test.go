package netns

import (
	"context"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// ownNet is this process's network namespace where a pin would be.
const ownNet = "/proc/self/ns/net"

// deaf listens and never accepts: what connects waits once the queue is full.
func deaf(t *testing.T) (port int32) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port = int32(sa.(*unix.SockaddrInet4).Port)
	conn, err := Dial(t.Context(), ownNet, port) // the queue takes one
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return port
}

// waiting is how many dial to a namespace or wait for room.
func (l *lanes) waiting(path string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at := l.by[path]; at != nil {
		return at.users
	}
	return 0
}

func threads(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// A pod whose listener does not answer holds no more threads than it may, and who
// gives up waiting for one is told so; another pod's connections are made.
func TestDialThreads(t *testing.T) {
	port := deaf(t)
	before := threads(t)
	ctx, cancel := context.WithCancel(t.Context())
	const dials = 8 * maxDialling
	done := make(chan error, dials)
	for range dials {
		go func() {
			_, err := Dial(ctx, ownNet, port)
			done <- err
		}()
	}
	for dialling.waiting(ownNet) < dials {
		runtime.Gosched()
	}
	if n := threads(t) - before; n > maxDialling+maxDialling/2 { // the runtime has some of its own
		t.Errorf("%d dials hold %d threads", dials, n)
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, text, _ := net.SplitHostPort(ln.Addr().String())
	other, _ := strconv.Atoi(text)
	conn, err := Dial(t.Context(), "/proc/thread-self/ns/net", int32(other))
	if err != nil {
		t.Fatalf("another pod: %v", err)
	}
	conn.Close()
	cancel()
	for range dials {
		if err := <-done; err == nil || !strings.Contains(err.Error(), "connect to port") {
			t.Errorf("a dial that gave up: %v", err)
		}
	}
	for dialling.waiting(ownNet) > 0 { // a moment later all have left
		runtime.Gosched()
	}
}
