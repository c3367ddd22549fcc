package stream

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"
)

// A still process says nothing, takes no input and ends with its session.
type still struct {
	closed chan struct{}
	end    func()
}

func newStill() *still {
	closed := make(chan struct{})
	return &still{closed, sync.OnceFunc(func() { close(closed) })}
}

func (p *still) Write([]byte) (int, error) { <-p.closed; return 0, io.ErrClosedPipe }
func (p *still) Read([]byte) (int, error)  { <-p.closed; return 0, io.EOF }
func (p *still) CloseWrite()               {}
func (p *still) Stdout() io.Reader         { return p }
func (p *still) Stderr() io.Reader         { return p }
func (p *still) Resize(_, _ uint16)        {}
func (p *still) Done() <-chan struct{}     { return nil }
func (p *still) Result() (int32, error)    { return 0, nil }
func (p *still) Close() error              { p.end(); return nil }

// stills is a backend of them.
type stills struct{ made chan *still }

func (b stills) Exec(context.Context, string, []string, Streams) (Process, error) {
	p := newStill()
	b.made <- p
	return p, nil
}

func (b stills) Attach(ctx context.Context, id string, s Streams) (Process, error) {
	return b.Exec(ctx, id, nil, s)
}

func (b stills) Dial(context.Context, string, int32) (net.Conn, error) { return nil, io.EOF }

// Sessions whose clients vanish, and those that are open when the server is
// closed, leave no goroutine.
func TestNoGoroutineStays(t *testing.T) {
	defer goleak.VerifyNone(t)
	b := stills{make(chan *still, 1)}
	s, err := Open(t.Context(), Options{Address: "127.0.0.1:0"}, b)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		url, err := s.Exec("id", []string{"command"}, Streams{Stdin: true, Stdout: true, Stderr: true})
		if err != nil {
			t.Fatal(err)
		}
		ws, _, err := (&websocket.Dialer{Subprotocols: []string{"v5.channel.k8s.io"}}).Dial("ws"+strings.TrimPrefix(url, "http"), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer ws.Close()
		p := <-b.made
		if i%2 == 0 {
			continue // the server's end finds it open
		}
		ws.Close()
		select {
		case <-p.closed:
		case <-time.After(20 * time.Second):
			t.Fatal("the process of a client that has gone goes on")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
}
