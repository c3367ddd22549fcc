package stream

import (
	"io"
	"net"
	"testing"
	"time"
)

// TestClientListenerIsBounded connects once more than there is room: that one is
// closed, and there is room again when another has gone.
func TestClientListenerIsBounded(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	l := clientListener{ln, make(chan struct{}, 1)}
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		return c
	}
	dial()
	first := <-accepted
	if _, err := dial().Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("one too many: %v, want its end", err)
	}
	first.Close()
	dial()
	if c := <-accepted; c == nil {
		t.Error("no room again")
	} else {
		c.Close()
	}
}
