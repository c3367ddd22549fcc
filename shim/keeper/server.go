package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/berthd/berth/shim/api"
	taskapi "github.com/berthd/berth/shim/api/task"
	"github.com/containerd/ttrpc"
)

// firstCall is how long a shim waits for the daemon that started it.
const firstCall = time.Minute

// heirCall is how long one without containers waits that has taken over from another program.
const heirCall = 5 * time.Second

// Serve answers on ln until there is neither a task nor a connection left, then
// removes the shim's folder; after a SIGTERM until no container runs. It makes this process the subreaper of its
// containers; only one Keeper may serve in a process.
func (k *Keeper) Serve(ctx context.Context, ln net.Listener) error {
	died, asked, heed, err := becomeReaper()
	if err != nil {
		return err
	}
	k.heed = heed
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go k.nursery.run(ctx, died)
	go k.retire(asked)

	k.rest.PutOff() // from all that starts a shim, or takes over from one
	k.connected(1)  // the first, which is expected
	came := sync.OnceFunc(func() { k.connected(-1) })
	limit := firstCall
	if k.resumed && len(k.list()) == 0 { // whoever had its predecessor may have been done with that
		limit = heirCall
	}
	late := time.AfterFunc(limit, came)
	defer late.Stop()

	if err := os.Remove(api.SessionPath(k.o.Dir)); err != nil && !errors.Is(err, os.ErrNotExist) { // a predecessor's
		return fmt.Errorf("serve: %w", err)
	}
	sessions, err := net.ListenUnix("unix", &net.UnixAddr{Name: api.SessionPath(k.o.Dir), Net: "unix"})
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	defer sessions.Close() // the folder, 0700, keeps others than root out
	go k.serveSessions(ctx, sessions)

	srv, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(handshaker{k, func() { late.Stop(); came() }}), ttrpc.WithUnaryServerInterceptor(k.gated))
	if err != nil {
		return err
	}
	taskapi.RegisterTaskService(srv, &taskService{k})
	api.RegisterKeeperService(srv, &keeperService{k})
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ctx, ln) }()
	select {
	case err = <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-k.retired: // the folder tells the daemon that there was a shim
		return srv.Close()
	case <-k.idle:
	}
	// Nothing of ours may outlive the folder, and nobody connects to a socket
	// that is not there.
	err = os.RemoveAll(k.o.Dir)
	return errors.Join(err, srv.Close())
}

// A handshaker lets root in and counts connections.
type handshaker struct {
	k    *Keeper
	came func()
}

func (h handshaker) Handshake(ctx context.Context, conn net.Conn) (net.Conn, any, error) {
	if err := rootPeer(ctx, conn); err != nil {
		return nil, nil, err
	}
	h.k.connected(1)
	h.came()
	return &countedConn{Conn: conn, closed: sync.OnceFunc(func() { h.k.connected(-1) })}, nil, nil
}

type countedConn struct {
	net.Conn
	closed func()
}

func (c *countedConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}
