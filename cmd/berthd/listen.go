package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/config"
	"github.com/berthd/berth/operator/metrics"
)

// openSockets listens for the CRI's clients, and for those of metrics where there are to be any.
func openSockets(ctx context.Context, cfg config.Config, s *sockets) (*rootListener, *metrics.Metrics, *scrapeListener, error) {
	listener, err := s.unix(ctx, "cri", cfg.Socket, "--socket")
	if err != nil {
		return nil, nil, nil, err
	}
	figures, scrapers, err := openMetrics(ctx, cfg, s)
	return listener, figures, scrapers, err
}

// listen serves on the socket at path, which only root may use: not group 0 either,
// which users have who are not root, and once a pod has a user namespace the state
// folder lets all pass. A socket file that nobody answers on is a leftover. option is
// what says where the socket is, for errors.
func listen(ctx context.Context, path, option string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := heldNames(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("socket %s: %w %s", path, err, option)
	}
	if conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("socket %s: another process serves on it; stop that one or choose another %s", path, option)
	}
	switch fi, err := os.Lstat(path); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("socket: %w", err)
	case fi.Mode().Type() != os.ModeSocket:
		return nil, fmt.Errorf("socket %s: there is something else, and not a socket; choose another %s", path, option)
	default:
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("socket: %w", err)
		}
	}
	return listenUnix(path, 0o600)
}

// A rootListener asks who connects, and hangs up unless it is root: who can run containers
// is root on the node, also when the socket's mode, or its folder's, has been changed.
type rootListener struct {
	*net.UnixListener
	begun sync.WaitGroup // counts the connections whose service has not begun
}

// Accept implements net.Listener.
func (l *rootListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(conn)
		if err == nil && uid == 0 {
			l.begun.Add(1)
			return &accepted{Conn: conn, begin: sync.OnceFunc(l.begun.Done)}, nil
		}
		klog.InfoS("Somebody else than root has connected, and is not served", "uid", uid, "err", err)
		conn.Close()
	}
}

// An accepted connection tells when its service begins. gRPC drops those that it has
// accepted and not begun with when it is told to stop, in good order too; their clients would
// be refused.
type accepted struct {
	net.Conn
	begin func()
}

// SetDeadline is what gRPC begins with.
func (a *accepted) SetDeadline(t time.Time) error {
	a.begin()
	return a.Conn.SetDeadline(t)
}

// Close implements net.Conn.
func (a *accepted) Close() error {
	a.begin()
	return a.Conn.Close()
}
