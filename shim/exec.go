package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/berthd/berth/shim/api"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// ExecRequest describes a command to be run in a container to its end.
type ExecRequest struct {
	ID      string
	Process *specs.Process
	Timeout time.Duration // 0: none
	Limit   int64         // bytes kept of each stream; 0 means 16 MiB. The rest is dropped while the command goes on.
}

// ExecResult is what a command said and how it ended.
type ExecResult struct {
	Stdout, Stderr []byte
	Code           int32 // 128 + signal when it was killed
}

const defaultLimit = 16 << 20

// cancelLimit is how long a shim may take to hear that a caller has gone.
const cancelLimit = 10 * time.Second

// ExecSync runs a command in a running container. Whatever the command leaves
// behind is killed when it ends; when it outlives its timeout all of it is
// killed and the error is ErrTimeout. When ctx ends, the command is killed too.
func (s *Shims) ExecSync(ctx context.Context, req ExecRequest) (ExecResult, error) {
	e, err := s.entry(req.ID)
	if err != nil {
		return ExecResult{}, err
	}
	c, err := e.p.client(ctx, &e.p.usage.streams)
	if err != nil {
		return ExecResult{}, fmt.Errorf("container %s: %w", req.ID, err)
	}
	defer e.p.leave(&e.p.usage.streams)
	k := api.NewKeeperClient(c)
	process, err := json.Marshal(req.Process)
	if err != nil {
		return ExecResult{}, err
	}
	if req.Limit <= 0 {
		req.Limit = defaultLimit
	}
	execID := newID()
	stream, err := k.ExecSync(ctx, &api.ExecSyncRequest{
		Id: req.ID, ExecId: execID, Process: process, TimeoutNano: int64(req.Timeout), Limit: req.Limit,
	})
	if err != nil {
		return ExecResult{}, fromWire(err)
	}
	var res ExecResult
	for {
		chunk, err := stream.Recv()
		if ctx.Err() != nil {
			s.cancelExec(k, execID)
			return ExecResult{}, context.Cause(ctx)
		}
		if err != nil {
			return ExecResult{}, execError(req, fromWire(err))
		}
		res.Stdout = append(res.Stdout, chunk.Stdout...)
		res.Stderr = append(res.Stderr, chunk.Stderr...)
		if chunk.Done {
			res.Code = chunk.ExitCode
			return res, nil
		}
	}
}

// execError tells the command's timeout from other errors.
func execError(req ExecRequest, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("exec in %s: command %q: %w after %s", req.ID, req.Process.Args, ErrTimeout, req.Timeout)
	}
	return err
}

// cancelExec has the shim kill a command that nobody waits for any more.
func (s *Shims) cancelExec(k api.KeeperClient, execID string) {
	ctx, cancel := context.WithTimeout(s.ctx, cancelLimit)
	defer cancel()
	_, _ = k.CancelExec(ctx, &api.CancelExecRequest{ExecId: execID}) // a dead shim has no commands
}

// ReopenLog has a running container go on in a new file at its log path, after
// the old one was renamed. Not running: ErrNotRunning, and no file is made.
func (s *Shims) ReopenLog(ctx context.Context, id string) error {
	e, err := s.entry(id)
	if err != nil {
		return err
	}
	return e.p.call(ctx, func(c *ttrpc.Client) error {
		_, err := api.NewKeeperClient(c).ReopenLog(ctx, &api.ReopenLogRequest{Id: id})
		return err
	})
}
