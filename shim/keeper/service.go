package keeper

import (
	"context"
	"fmt"

	"github.com/berthd/berth/shim/api"
	"github.com/berthd/berth/shim/keeper/container"
)

// keeperService answers what Task v3 lacks.
type keeperService struct{ k *Keeper }

func (s *keeperService) List(_ context.Context, req *api.ListRequest) (*api.ListResponse, error) {
	resp := &api.ListResponse{Shim: s.k.info()}
	for _, t := range s.k.list() {
		if req.Id != "" && req.Id != t.rec.ID {
			continue
		}
		if info := t.info(); info != nil {
			resp.Tasks = append(resp.Tasks, info)
		}
	}
	if req.Id != "" && len(resp.Tasks) == 0 {
		return nil, toStatus(fmt.Errorf("container %s: %w", req.Id, errNotFound))
	}
	return resp, nil
}

// info is what others see of a task: nil while it is being created.
func (t *task) info() *api.TaskInfo {
	st := t.snapshot()
	info := &api.TaskInfo{Id: t.rec.ID, PodId: t.rec.PodID, Bundle: t.rec.Bundle, Pid: uint32(st.pid)}
	switch st.status {
	case creating:
		return nil
	case created:
		info.Status = api.Status_CREATED
	case running:
		info.Status = api.Status_RUNNING
	case exited:
		info.Status = api.Status_EXITED
		info.Exit = &api.Exit{Code: st.exit.Code, AtUnixNano: st.exit.At.UnixNano(), OomKilled: st.exit.OOMKilled}
	}
	return info
}

func (s *keeperService) ExecSync(ctx context.Context, req *api.ExecSyncRequest, out api.Keeper_ExecSyncServer) error {
	leave, err := s.k.pass(ctx, "ExecSync", aStream)
	if err != nil {
		return toStatus(err)
	}
	defer leave()
	return toStatus(s.k.execSync(ctx, req, out.Send))
}

func (s *keeperService) Upgrade(ctx context.Context, req *api.UpgradeRequest) (*api.UpgradeResponse, error) {
	waitsFor, err := s.k.upgrade(ctx, req.Program)
	if err != nil {
		return nil, toStatus(err)
	}
	return &api.UpgradeResponse{WaitsFor: waitsFor}, nil
}

func (s *keeperService) ShareFilters(_ context.Context, req *api.ShareFiltersRequest) (*api.ShareFiltersResponse, error) {
	var given []container.Filter
	for _, f := range req.Filters {
		given = append(given, container.Filter{Key: f.Key, Program: f.Program})
	}
	if err := s.k.filters.Add(given); err != nil {
		return nil, toStatus(err)
	}
	have, err := s.k.filters.List()
	if err != nil {
		return nil, toStatus(err)
	}
	resp := &api.ShareFiltersResponse{}
	for _, f := range have {
		resp.Filters = append(resp.Filters, &api.Filter{Key: f.Key, Program: f.Program})
	}
	return resp, nil
}

func (s *keeperService) CancelExec(_ context.Context, req *api.CancelExecRequest) (*api.CancelExecResponse, error) {
	s.k.cancelExec(req.ExecId)
	return &api.CancelExecResponse{}, nil
}

func (s *keeperService) ReopenLog(ctx context.Context, req *api.ReopenLogRequest) (*api.ReopenLogResponse, error) {
	t, err := s.k.task(req.Id)
	if err == nil {
		err = t.reopenLog(ctx)
	}
	if err != nil {
		return nil, toStatus(err)
	}
	return &api.ReopenLogResponse{}, nil
}
