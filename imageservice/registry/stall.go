package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// Stall says when a connection is as good as dead: when Bytes took longer than
// Window to arrive. A trickle is not progress (containerd#11650). Time in
// which nobody reads does not count: a slow disk is not a slow registry. Zero fields take the defaults.
type Stall struct {
	Bytes  int64         // default 64 KiB
	Window time.Duration // default 30 s
}

func (s Stall) withDefaults() Stall {
	if s.Bytes <= 0 {
		s.Bytes = 64 << 10
	}
	if s.Window <= 0 {
		s.Window = 30 * time.Second
	}
	return s
}

// String says what it means to have stalled.
func (s Stall) String() string {
	return fmt.Sprintf("stalled: less than %d bytes in %s", s.Bytes, s.Window)
}

// dialer is d with connections that a write cuts which does not end within Window: what is written at once
// are tens of kilobytes. Its error is errStalled.
func (s Stall) dialer(d *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return stallConn{conn, s.Window}, nil
	}
}

type stallConn struct {
	net.Conn
	window time.Duration
}

// Write implements net.Conn.
func (c stallConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.window)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errStalled
	}
	return n, err
}

// errStalled is what a stallReader returns once it has cut its connection.
var errStalled = errors.New("stalled")

// A bodyError is why the body of an answer ended before its time. That is the connection's
// fault, or the server's, whoever was reading.
type bodyError struct{ cause error }

func (e *bodyError) Error() string { return e.cause.Error() }
func (e *bodyError) Unwrap() error { return e.cause }

// A stallReader is the body of an answer. It cuts the connection when it stalls.
type stallReader struct {
	body  io.ReadCloser
	cut   func()
	stall Stall
	timer *time.Timer
	fired atomic.Bool // the connection was cut

	got    int64         // since the window began
	waited time.Duration // in Read, since the window began
}

// newStallReader watches body. cut must make a hanging Read of body return; it
// may be called more than once, and is called by Close.
func newStallReader(body io.ReadCloser, s Stall, cut func()) *stallReader {
	r := &stallReader{body: body, cut: cut, stall: s}
	r.timer = time.AfterFunc(s.Window, func() {
		r.fired.Store(true)
		cut()
	})
	r.timer.Stop()
	return r
}

// Close implements io.Closer.
func (r *stallReader) Close() error {
	defer r.cut()
	return r.body.Close()
}

// Read implements io.Reader. Its error is errStalled when the connection was cut, and
// otherwise a bodyError.
func (r *stallReader) Read(p []byte) (int, error) {
	begin := time.Now()
	r.timer.Reset(r.stall.Window - r.waited)
	n, err := r.body.Read(p)
	r.timer.Stop()
	if r.fired.Load() && n == 0 {
		return 0, errStalled
	}
	r.waited += time.Since(begin)
	r.got += int64(n)
	if r.got >= r.stall.Bytes {
		r.got, r.waited = 0, 0
	}
	if err != nil && err != io.EOF {
		err = &bodyError{err}
	}
	return n, err
}
