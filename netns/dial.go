package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// dialLimit is how long one address may take to answer. It is the pod's own
// loopback, so only a packet filter in the pod makes it wait.
const dialLimit = 10 * time.Second

// maxDialling bounds the threads that the dials to one pod hold. A pod can see to it
// that none is answered (a listener that does not accept), and the Go runtime ends a
// process that has 10000 threads.
const maxDialling = 32

// dialling is who dials now.
var dialling lanes

// lanes have room for maxDialling each, by namespace. The zero value is empty.
type lanes struct {
	mu sync.Mutex
	by map[string]*lane
}

type lane struct {
	users int // in it and waiting
	room  chan struct{}
}

// enter waits for room until ctx ends. leave gives it back.
func (l *lanes) enter(ctx context.Context, path string) (leave func(), err error) {
	l.mu.Lock()
	at := l.by[path]
	if at == nil {
		if l.by == nil {
			l.by = map[string]*lane{}
		}
		at = &lane{room: make(chan struct{}, maxDialling)}
		l.by[path] = at
	}
	at.users++
	l.mu.Unlock()
	forget := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if at.users--; at.users == 0 {
			delete(l.by, path)
		}
	}
	select {
	case at.room <- struct{}{}:
		return func() { <-at.room; forget() }, nil
	case <-ctx.Done():
		forget()
		return nil, fmt.Errorf("%d other connections to the pod wait for an answer: %w", maxDialling, context.Cause(ctx))
	}
}

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
	leave, err := dialling.enter(ctx, path)
	if err != nil {
		return nil, err
	}
	type dialled struct {
		conn net.Conn
		err  error
	}
	done := make(chan dialled, 1)
	go onDyingThread(func() {
		defer leave()
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
