package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
)

// errClientGone ends a session whose client has gone.
var errClientGone = errors.New("the client has gone")

// A client is one connection. Somebody always reads from it while a session
// lasts, so that its end is seen at once whether or not it says anything.
type client struct {
	net.Conn
	gone chan struct{} // closed with the connection, by whichever side
	end  func()
}

// Read implements net.Conn.
func (c *client) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && !isTimeout(err) {
		c.end()
	}
	return n, err
}

// Close implements net.Conn.
func (c *client) Close() error {
	c.end()
	return c.Conn.Close()
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// A clientListener makes clients of connections.
type clientListener struct{ net.Listener }

// Accept implements net.Listener.
func (l clientListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	gone := make(chan struct{})
	return &client{Conn: conn, gone: gone, end: sync.OnceFunc(func() { close(gone) })}, nil
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
