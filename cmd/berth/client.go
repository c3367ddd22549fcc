package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/config"
	"github.com/berthd/berth/operator/api"
)

// messageLimit is the largest answer that is taken, in bytes: lists of a full
// node pass gRPC's 4 MiB.
const messageLimit = 64 << 20

// A client asks one berthd. Close it.
type client struct {
	runtimeapi.RuntimeServiceClient
	operator api.ImagesClient
	conn     *grpc.ClientConn
	socket   string
}

// dial prepares to ask the daemon that the flags and the settings name. Nothing
// is sent yet.
func (t *target) dial() (*client, error) {
	socket := strings.TrimPrefix(t.socket, "unix://")
	if socket == "" {
		settings, err := config.Load(t.settings)
		if err != nil {
			return nil, fmt.Errorf("which socket? %w (or use --socket)", err)
		}
		socket = settings.Socket
	}
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageLimit)))
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", socket, err)
	}
	return &client{runtimeapi.NewRuntimeServiceClient(conn), api.NewImagesClient(conn), conn, socket}, nil
}

func (c *client) Close() error { return c.conn.Close() }

// explain makes a sentence of a call's error.
func (c *client) explain(err error) error {
	s := status.Convert(err)
	switch s.Code() {
	case codes.Unavailable:
		if isForbidden(c.socket) {
			return fmt.Errorf("%s is root's alone: run berth as root", c.socket)
		}
		return fmt.Errorf("berthd does not answer on %s: is it running? %s", c.socket, s.Message())
	case codes.DeadlineExceeded:
		return fmt.Errorf("berthd did not answer on %s in time (--timeout)", c.socket)
	case codes.Unimplemented:
		return fmt.Errorf("berthd on %s has no such call: it is older than this program, or another runtime: %s", c.socket, s.Message())
	case codes.Canceled:
		return errors.New("cancelled")
	}
	return errors.New(s.Message())
}

// ask runs f with a client, within the timeout.
func (t *target) ask(ctx context.Context, f func(context.Context, *client) error) error {
	c, err := t.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	return f(ctx, c)
}

// reach runs f with a client, for as long as it takes.
func (t *target) reach(ctx context.Context, f func(context.Context, *client) error) error {
	c, err := t.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	return f(ctx, c)
}
