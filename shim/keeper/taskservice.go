package keeper

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"github.com/berthd/berth/shim/api"
	taskapi "github.com/berthd/berth/shim/api/task"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// taskService is containerd's shim API (runtime v2, Task v3). Exec, Checkpoint
// and Stats are not built; commands go through Keeper.ExecSync and sessions.
type taskService struct{ k *Keeper }

func (s *taskService) Create(ctx context.Context, req *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if req.Checkpoint != "" || len(req.Rootfs) > 0 {
		return nil, toStatus(fmt.Errorf("create %s: checkpoints and root filesystem mounts: %w", req.Id, errUnbuilt))
	}
	var o api.CreateOptions
	if req.Options != nil {
		if err := req.Options.UnmarshalTo(&o); err != nil {
			return nil, toStatus(fmt.Errorf("create %s: options: %w: %w", req.Id, errInvalid, err))
		}
	}
	pid, err := s.k.create(ctx, taskID{
		ID: req.Id, PodID: o.PodId, Bundle: req.Bundle, SystemdCgroup: o.SystemdCgroup, Runtime: o.Runtime,
		LogPath: o.LogPath, LogRate: o.LogRate, LogBurst: o.LogBurst, Terminal: req.Terminal, Stdin: o.Stdin, StdinOnce: o.StdinOnce,
	})
	if err != nil {
		return nil, toStatus(err)
	}
	return &taskapi.CreateTaskResponse{Pid: uint32(pid)}, nil
}

func (s *taskService) Start(ctx context.Context, req *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	t, err := s.find(req.Id, req.ExecId)
	if err != nil {
		return nil, toStatus(err)
	}
	var pid int
	if err = s.k.nursery.wait(func() (err error) { // another runtime's program is a child
		pid, err = t.run(ctx)
		return err
	}); err != nil {
		return nil, toStatus(err)
	}
	return &taskapi.StartResponse{Pid: uint32(pid)}, nil
}

func (s *taskService) State(_ context.Context, req *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	t, err := s.find(req.Id, req.ExecId)
	if err != nil {
		return nil, toStatus(err)
	}
	st := t.snapshot()
	resp := &taskapi.StateResponse{Id: t.rec.ID, Bundle: t.rec.Bundle, Pid: uint32(st.pid)}
	switch st.status {
	case created:
		resp.Status = tasktypes.Status_CREATED
	case running:
		resp.Status = tasktypes.Status_RUNNING
		if st.paused {
			resp.Status = tasktypes.Status_PAUSED
		}
	case exited:
		resp.Status = tasktypes.Status_STOPPED
		resp.ExitStatus, resp.ExitedAt = uint32(st.exit.Code), timestamppb.New(st.exit.At)
	}
	return resp, nil
}

func (s *taskService) Kill(_ context.Context, req *taskapi.KillRequest) (*emptypb.Empty, error) {
	t, err := s.find(req.Id, req.ExecId)
	if err == nil {
		err = t.signal(int(req.Signal), req.All)
	}
	return empty(err)
}

func (s *taskService) Wait(ctx context.Context, req *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	t, err := s.find(req.Id, req.ExecId)
	if err != nil {
		return nil, toStatus(err)
	}
	select {
	case <-t.done:
	case <-ctx.Done():
		return nil, toStatus(context.Cause(ctx))
	}
	exit := t.snapshot().exit
	return &taskapi.WaitResponse{ExitStatus: uint32(exit.Code), ExitedAt: timestamppb.New(exit.At)}, nil
}

func (s *taskService) Delete(ctx context.Context, req *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	if req.ExecId != "" {
		return nil, toStatus(fmt.Errorf("exec processes: %w", errUnbuilt))
	}
	exit, err := s.k.delete(ctx, req.Id)
	if err != nil {
		return nil, toStatus(err)
	}
	return &taskapi.DeleteResponse{Pid: uint32(exit.Pid), ExitStatus: uint32(exit.Code), ExitedAt: timestamppb.New(exit.At)}, nil
}

func (s *taskService) Pids(_ context.Context, req *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	t, err := s.find(req.Id, "")
	if err != nil {
		return nil, toStatus(err)
	}
	resp := &taskapi.PidsResponse{}
	if st := t.snapshot().status; st != created && st != running {
		return resp, nil
	}
	pids, err := t.cg.procs()
	if err != nil {
		return nil, toStatus(err)
	}
	for _, pid := range pids {
		resp.Processes = append(resp.Processes, &tasktypes.ProcessInfo{Pid: uint32(pid)})
	}
	return resp, nil
}

func (s *taskService) Pause(ctx context.Context, req *taskapi.PauseRequest) (*emptypb.Empty, error) {
	t, err := s.find(req.Id, "")
	if err == nil {
		err = s.k.nursery.wait(func() error { return t.freeze(ctx, true) })
	}
	return empty(err)
}

func (s *taskService) Resume(ctx context.Context, req *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	t, err := s.find(req.Id, "")
	if err == nil {
		err = s.k.nursery.wait(func() error { return t.freeze(ctx, false) })
	}
	return empty(err)
}

func (s *taskService) ResizePty(_ context.Context, req *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	t, err := s.find(req.Id, req.ExecId)
	if err == nil {
		err = t.io.resize(uint16(req.Width), uint16(req.Height))
	}
	return empty(err)
}

func (s *taskService) CloseIO(_ context.Context, req *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	t, err := s.find(req.Id, req.ExecId)
	if err == nil && req.Stdin {
		t.io.closeStdin()
	}
	return empty(err)
}

// Update takes a runtime-spec LinuxResources as JSON, and an oom_score_adj as an
// annotation (api.OOMScoreAdj). What it leaves out stays. All is changed or
// nothing.
func (s *taskService) Update(ctx context.Context, req *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	t, err := s.find(req.Id, "")
	if err != nil {
		return empty(err)
	}
	var r specs.LinuxResources
	if err := json.Unmarshal(req.GetResources().GetValue(), &r); err != nil {
		return empty(fmt.Errorf("update %s: resources: %w: %w", req.Id, errInvalid, err))
	}
	var score *int
	if text, ok := req.Annotations[api.OOMScoreAdj]; ok {
		n, err := strconv.Atoi(text)
		if err != nil {
			return empty(fmt.Errorf("update %s: oom_score_adj: %w: %w", req.Id, errInvalid, err))
		}
		score = &n
	}
	return empty(t.update(ctx, &r, score))
}

func (s *taskService) Connect(_ context.Context, req *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	resp := &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid()), Version: "3"}
	if req.Id != "" {
		t, err := s.find(req.Id, "")
		if err != nil {
			return nil, toStatus(err)
		}
		resp.TaskPid = uint32(t.snapshot().pid)
	}
	return resp, nil
}

// Shutdown ends a shim without tasks.
func (s *taskService) Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	return empty(s.k.shutDown())
}

func (s *taskService) Exec(context.Context, *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	return empty(fmt.Errorf("Task.Exec: %w", errUnbuilt))
}

func (s *taskService) Checkpoint(context.Context, *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return empty(fmt.Errorf("Task.Checkpoint: %w", errUnbuilt))
}

func (s *taskService) Stats(context.Context, *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	return nil, toStatus(fmt.Errorf("Task.Stats: %w", errUnbuilt))
}

// find finds a task. Its first process is the only one that the API knows.
func (s *taskService) find(id, execID string) (*task, error) {
	if execID != "" {
		return nil, fmt.Errorf("container %s: exec process %s: %w", id, execID, errNotFound)
	}
	t, err := s.k.task(id)
	if err == nil && t.snapshot().status == creating {
		return nil, fmt.Errorf("container %s: it is being created: %w", id, errNotFound)
	}
	return t, err
}

func empty(err error) (*emptypb.Empty, error) {
	if err != nil {
		return nil, toStatus(err)
	}
	return &emptypb.Empty{}, nil
}
