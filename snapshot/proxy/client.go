// Package proxy asks a proxy snapshotter: a process that keeps snapshots and serves
// containerd's API containerd.services.snapshots.v1, such as those of stargz, nydus and
// SOCI.
//
// Every call has a time limit, and fails at once while the process is not there. It may be
// started again at any time: a call that finds its connection gone is made once more. So
// whatever is asked must be such that it may be repeated; a name that exists is told apart.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// How long the process may take to answer.
const (
	quickly = 10 * time.Second // what it knows
	making  = 2 * time.Minute  // a snapshot, of what may be in a registry
	listing = time.Minute
)

// namespace is what containerd's clients name their things in; some processes ask for it.
const namespace = "berth"

// Errors are what the process's answers are for those who ask; the text is the process's.
type Errors struct {
	NotFound, Exists, InUse, Unsupported error
	Unavailable                          error // it is not there, or does not answer in time
}

// A Client asks one process. It is safe for concurrent use.
type Client struct {
	name, address string
	errors        Errors
	conn          *grpc.ClientConn
	api           snapshotsapi.SnapshotsClient
}

// New makes a client of the process on a unix socket, an absolute path, which connects when
// it is used. The settings call the process name, and so does what it is asked. Close it.
func New(name, address string, is Errors) (*Client, error) {
	conn, err := grpc.NewClient("unix:"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(), grpc.WithAuthority("localhost"),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: quickly,
		}))
	if err != nil {
		return nil, fmt.Errorf("proxy_plugins.%s.address: %w", name, err)
	}
	return &Client{name: name, address: address, errors: is, conn: conn, api: snapshotsapi.NewSnapshotsClient(conn)}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// call makes one call within limit, and once more when the process was started again
// since the last one. All that is called may be repeated.
func (c *Client) call(ctx context.Context, limit time.Duration, f func(context.Context, ...grpc.CallOption) error) error {
	limited, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, "containerd-namespace", namespace), limit)
	defer cancel()
	err := f(limited)
	if status.Code(err) == codes.Unavailable && c.listens(limited) {
		c.conn.ResetConnectBackoff()
		err = f(limited, grpc.WaitForReady(true))
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if limited.Err() != nil {
		return fmt.Errorf("snapshot proxy %s did not answer on %s within %v; look at its log: %w", c.name, c.address, limit, c.errors.Unavailable)
	}
	return c.explain(err)
}

// listens tells whether there is somebody at the socket.
func (c *Client) listens(ctx context.Context) bool {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.address)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// explain says what the process's error means here.
func (c *Client) explain(err error) error {
	st := status.Convert(err)
	switch st.Code() {
	case codes.Unavailable:
		return fmt.Errorf("snapshot proxy %s does not answer on %s; start its service, or correct proxy_plugins.%s.address: %w: %s",
			c.name, c.address, c.name, c.errors.Unavailable, st.Message())
	case codes.NotFound:
		err = c.errors.NotFound
	case codes.AlreadyExists:
		err = c.errors.Exists
	case codes.FailedPrecondition:
		err = c.errors.InUse
	case codes.Unimplemented:
		err = c.errors.Unsupported
	default:
		return fmt.Errorf("snapshot proxy %s: %s", c.name, st.String()) // its code is not ours
	}
	return fmt.Errorf("snapshot proxy %s: %s: %w", c.name, st.Message(), err)
}

// List lists the snapshots whose names begin with prefix. It waits until the process
// answers.
func (c *Client) List(ctx context.Context, prefix string) ([]*snapshotsapi.Info, error) {
	for {
		out, err := c.list(ctx, prefix)
		if !errors.Is(err, c.errors.Unavailable) {
			return out, err
		}
		if !c.conn.WaitForStateChange(ctx, c.conn.GetState()) {
			return nil, ctx.Err()
		}
	}
}

func (c *Client) list(ctx context.Context, prefix string) (out []*snapshotsapi.Info, err error) {
	err = c.call(ctx, listing, func(ctx context.Context, o ...grpc.CallOption) error {
		out = nil
		stream, err := c.api.List(ctx, &snapshotsapi.ListSnapshotsRequest{Snapshotter: c.name}, o...)
		if err != nil {
			return err
		}
		for {
			resp, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			for _, info := range resp.GetInfo() {
				if strings.HasPrefix(info.GetName(), prefix) {
					out = append(out, info)
				}
			}
		}
	})
	return out, err
}

// Stat tells about a snapshot.
func (c *Client) Stat(ctx context.Context, key string) (info *snapshotsapi.Info, err error) {
	err = c.call(ctx, quickly, func(ctx context.Context, o ...grpc.CallOption) error {
		resp, err := c.api.Stat(ctx, &snapshotsapi.StatSnapshotRequest{Snapshotter: c.name, Key: key}, o...)
		info = resp.GetInfo()
		return err
	})
	return info, err
}

// Prepare makes a snapshot to write to on a committed one, or on nothing, and gives what to mount.
func (c *Client) Prepare(ctx context.Context, key, parent string, labels map[string]string) (m []*types.Mount, err error) {
	err = c.call(ctx, making, func(ctx context.Context, o ...grpc.CallOption) error {
		resp, err := c.api.Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: c.name, Key: key, Parent: parent, Labels: labels}, o...)
		m = resp.GetMounts()
		return err
	})
	return m, err
}

// View makes a snapshot to read a committed one by.
func (c *Client) View(ctx context.Context, key, parent string) (m []*types.Mount, err error) {
	err = c.call(ctx, making, func(ctx context.Context, o ...grpc.CallOption) error {
		resp, err := c.api.View(ctx, &snapshotsapi.ViewSnapshotRequest{Snapshotter: c.name, Key: key, Parent: parent}, o...)
		m = resp.GetMounts()
		return err
	})
	return m, err
}

// Mounts gives again what Prepare or View gave.
func (c *Client) Mounts(ctx context.Context, key string) (m []*types.Mount, err error) {
	err = c.call(ctx, quickly, func(ctx context.Context, o ...grpc.CallOption) error {
		resp, err := c.api.Mounts(ctx, &snapshotsapi.MountsRequest{Snapshotter: c.name, Key: key}, o...)
		m = resp.GetMounts()
		return err
	})
	return m, err
}

// Commit has what Prepare made be the snapshot name, which does not change any more.
func (c *Client) Commit(ctx context.Context, name, key, parent string, labels map[string]string) error {
	return c.call(ctx, making, func(ctx context.Context, o ...grpc.CallOption) error {
		_, err := c.api.Commit(ctx, &snapshotsapi.CommitSnapshotRequest{Snapshotter: c.name, Name: name, Key: key, Parent: parent, Labels: labels}, o...)
		return err
	})
}

// Remove removes a snapshot. An absent one is fine.
func (c *Client) Remove(ctx context.Context, key string) error {
	err := c.call(ctx, making, func(ctx context.Context, o ...grpc.CallOption) error {
		_, err := c.api.Remove(ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: c.name, Key: key}, o...)
		return err
	})
	if errors.Is(err, c.errors.NotFound) {
		return nil
	}
	return err
}

// Cleanup has a process that frees space later do it now, where it can.
func (c *Client) Cleanup(ctx context.Context) error {
	err := c.call(ctx, making, func(ctx context.Context, o ...grpc.CallOption) error {
		_, err := c.api.Cleanup(ctx, &snapshotsapi.CleanupRequest{Snapshotter: c.name}, o...)
		return err
	})
	if errors.Is(err, c.errors.Unsupported) {
		return nil
	}
	return err
}

// Usage tells how many bytes and files a snapshot takes, without those it stands on.
func (c *Client) Usage(ctx context.Context, key string) (bytes, inodes uint64, err error) {
	err = c.call(ctx, listing, func(ctx context.Context, o ...grpc.CallOption) error {
		resp, err := c.api.Usage(ctx, &snapshotsapi.UsageRequest{Snapshotter: c.name, Key: key}, o...)
		bytes, inodes = uint64(max(resp.GetSize(), 0)), uint64(max(resp.GetInodes(), 0))
		return err
	})
	return bytes, inodes, err
}
