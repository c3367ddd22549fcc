package streaming

import (
	"net"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// listenIn listens in a pinned network namespace, "" for the host's.
func listenIn(t *testing.T, pin, network, address string) net.Listener {
	t.Helper()
	type listening struct {
		ln  net.Listener
		err error
	}
	done := make(chan listening, 1)
	go func() {
		if pin != "" {
			runtime.LockOSThread() // and never unlocked: the thread ends with this
			f, err := os.Open(pin)
			if err == nil {
				err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
				f.Close()
			}
			if err != nil {
				done <- listening{nil, err}
				return
			}
		}
		ln, err := net.Listen(network, address)
		done <- listening{ln, err}
	}()
	l := <-done
	if l.err != nil {
		t.Fatal(l.err)
	}
	return l.ln
}
