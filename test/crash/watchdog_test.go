package crash

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/node"
)

// TestWatchdog has a part of the self-test hang inside berthd, as in a deadlock, and is systemd
// for it: berthd leaves a dump that says what hangs, and is silent then, so that it is ended with
// SIGABRT. The next one is sound.
func TestWatchdog(t *testing.T) {
	s := open(t, "", nil)
	ctx := t.Context()
	path := filepath.Join(s.world.Dir, "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	const interval = 6 * time.Second
	s.node.Wrap = func(command []string) []string {
		return append([]string{"env", "NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=6000000"}, command...)
	}
	// alive waits until the daemon says that it is, and tells whether it did in time.
	alive := func() bool {
		t.Helper()
		for end := time.Now().Add(node.Patience(interval)); ; {
			buf := make([]byte, 4096)
			if err := systemd.SetReadDeadline(end); err != nil {
				t.Fatal(err)
			}
			n, err := systemd.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return false
			}
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(string(buf[:n]), "WATCHDOG=1") {
				return true
			}
		}
	}
	s.arm(t, orders{Program: "berthd", Point: "write root/self-test/file", Passing: 1, Hang: true})
	if err := s.node.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if !s.killed() {
		t.Fatal("nothing hangs")
	}
	told := 0
	for ; alive(); told++ {
		if told > 20 {
			t.Fatal("a daemon with a self-test that hangs is alive to systemd for ever")
		}
	}
	if told == 0 {
		t.Error("it was never alive to systemd")
	}
	dumps, err := filepath.Glob(filepath.Join(s.node.Root, "dumps", "*.txt"))
	if err != nil || len(dumps) != 1 {
		t.Fatalf("dumps: %q, %v", dumps, err)
	}
	data, err := os.ReadFile(dumps[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"past their bounds: self-test", "OVERDUE", "stage ", "write to the root folder", "crashpoint.At", "durable.Replace"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("the dump has no %q", want)
		}
	}
	if err := unix.Kill(s.node.PID(), unix.SIGABRT); err != nil {
		t.Fatal(err)
	}
	s.node.Kill() // waits for it
	if err := s.node.Start(ctx); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if !alive() {
			t.Error("the next daemon is not alive to systemd")
		}
	}
	if dumps, err := filepath.Glob(filepath.Join(s.node.Root, "dumps", "*.txt")); err != nil || len(dumps) != 1 {
		t.Errorf("dumps of the next: %q, %v", dumps, err)
	}
}
