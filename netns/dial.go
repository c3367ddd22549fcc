package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"
)

// dialLimit is how long one address may take to answer. It is the pod's own
// loopback, so only a packet filter in the pod makes it wait.
const dialLimit = 10 * time.Second

// Dial connects over TCP to a port of a pod's loopback address, IPv4's and then
// IPv6's. path is the pinned network namespace; "" is the host's. The connection
// is the caller's and goes on when the pod's namespace is no more pinned.
func Dial(ctx context.Context, path string, port int32) (net.Conn, error) {
	var errs []error
	for _, a := range [...]struct{ network, host string }{{"tcp4", "127.0.0.1"}, {"tcp6", "::1"}} {
		conn, err := dialIn(ctx, path, a.network, net.JoinHostPort(a.host, strconv.Itoa(int(port))))
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("connect to port %d: %w", port, errors.Join(errs...))
}

// dialIn dials in a namespace.
func dialIn(ctx context.Context, path, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	var d net.Dialer
	if path == "" {
		return d.DialContext(ctx, network, address)
	}
	type dialled struct {
		conn net.Conn
		err  error
	}
	done := make(chan dialled, 1)
	go onDyingThread(func() {
		err := enter(filepath.Dir(path), []kind{kindNet}) // the pin has the kind's name
		if err != nil {
			done <- dialled{nil, err}
			return
		}
		// An address that needs no look-up is dialled by the calling goroutine, so the
		// socket is this thread's.
		conn, err := d.DialContext(ctx, network, address)
		done <- dialled{conn, err}
	})
	r := <-done // ctx ends the dialling
	return r.conn, r.err
}
