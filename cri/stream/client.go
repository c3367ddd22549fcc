package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// errClientGone ends a session whose client has gone.
var errClientGone = errors.New("the client has gone")

// partingLimit is how long a client may take to hang up when all is said.
const partingLimit = 5 * time.Second

// A client is one connection. Its end is seen by whoever reads from it, and where
// nobody does because what it sends is not taken, by the probes that it is sent
// (stall).
type client struct {
	net.Conn
	gone    chan struct{} // closed with the connection, by whichever side
	end     func()
	parting atomic.Bool // see part
	silence sync.Once   // ends what goes on when it is parted with
}

// Read implements net.Conn.
func (c *client) Read(p []byte) (int, error) {
	if c.parting.Load() && c.ended() {
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Read(p)
	if err != nil && (!isTimeout(err) || c.parting.Load()) {
		c.end()
	}
	return n, err
}

// Close implements net.Conn. That of a session that ended well is done by part.
func (c *client) Close() error {
	c.end()
	if !c.parting.Load() {
		return c.Conn.Close()
	}
	c.silence.Do(func() { _ = c.SetDeadline(time.Now()) }) // once: part has a deadline of its own
	return nil
}

func (c *client) ended() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

// part closes the connection. After a session that ended well, it lets the client
// have what was sent to it first: a connection that is closed while there is
// something to be read from it is reset, and what is on its way is lost.
func (c *client) part(ctx context.Context) {
	defer c.Conn.Close()
	tcp, ok := c.Conn.(*net.TCPConn)
	if !ok || !c.parting.Load() || c.Close() != nil || tcp.CloseWrite() != nil {
		return
	}
	defer context.AfterFunc(ctx, func() { c.Conn.Close() })()
	_ = c.SetReadDeadline(time.Now().Add(partingLimit))
	_, _ = io.Copy(io.Discard, c.Conn)
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// A clientListener makes clients of connections. One for which slots has no room is
// closed at once: anybody may connect, and a descriptor is the daemon's.
type clientListener struct {
	net.Listener
	slots chan struct{} // holds a token for each connection
}

// Accept implements net.Listener.
func (l clientListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.slots <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		gone := make(chan struct{})
		return &client{Conn: conn, gone: gone, end: sync.OnceFunc(func() { close(gone); <-l.slots })}, nil
	}
}

type clientKey struct{}

// withClient is http.Server's ConnContext.
func withClient(ctx context.Context, conn net.Conn) context.Context {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	return context.WithValue(ctx, clientKey{}, conn)
}

// clientOf is the client of a request, nil for one that came another way.
func clientOf(ctx context.Context) *client {
	c, _ := ctx.Value(clientKey{}).(*client)
	return c
}
