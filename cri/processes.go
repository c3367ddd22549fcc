package cri

import (
	"context"
	"strconv"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/sandbox"
)

// processes answers what is asked of running containers.
type processes struct {
	containers *sandbox.Containers
}

// ExecSync implements the RPC. It fails with DeadlineExceeded when the command
// outlives the timeout (0: none), which kubelet takes for a failed probe.
func (s processes) ExecSync(ctx context.Context, req *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	if err := checkID("container_id", req.GetContainerId()); err != nil {
		return nil, err
	}
	if len(req.GetCmd()) == 0 {
		return nil, invalid("cmd", "is empty")
	}
	if req.GetTimeout() < 0 {
		return nil, invalid("timeout", "%d is negative", req.GetTimeout())
	}
	res, err := s.containers.ExecSync(ctx, req.GetContainerId(), req.GetCmd(), seconds(req.GetTimeout()))
	if err != nil {
		return nil, err
	}
	stdout, stderr := fit(res.Stdout, res.Stderr, maxMessage-messageRoom)
	return &runtimeapi.ExecSyncResponse{Stdout: stdout, Stderr: stderr, ExitCode: res.Code}, nil
}

// messageRoom is what a message needs beside its streams, in bytes, with much to
// spare.
const messageRoom = 64 << 10

// fit cuts two streams to what fits together. A stream that is shorter than its
// half leaves the rest to the other.
func fit(a, b []byte, room int) (fitA, fitB []byte) {
	if len(a)+len(b) <= room {
		return a, b
	}
	n := max(room/2, room-len(b))
	a = a[:min(len(a), n)]
	return a, b[:min(len(b), room-len(a))]
}

// ReopenContainerLog implements the RPC.
func (s processes) ReopenContainerLog(ctx context.Context, req *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	if err := checkID("container_id", req.GetContainerId()); err != nil {
		return nil, err
	}
	if err := s.containers.ReopenLog(ctx, req.GetContainerId()); err != nil {
		return nil, err
	}
	return &runtimeapi.ReopenContainerLogResponse{}, nil
}

// jsonInt is n as JSON.
func jsonInt(n int) string { return strconv.Itoa(n) }
