package shim

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/berthd/berth/shim/api"
	taskapi "github.com/berthd/berth/shim/api/task"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
)

// UpdateRequest describes new limits of a container.
type UpdateRequest struct {
	ID          string
	Resources   *specs.LinuxResources // what it leaves out stays
	OOMScoreAdj *int                  // of all its processes that did not choose another; nil: stays
}

// resourcesType is what the shim API calls a runtime-spec LinuxResources.
const resourcesType = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"

// Update changes the limits of a created or running container, all or nothing. A
// memory limit below what is in use, and cannot be reclaimed, is ErrBelowUsage. One
// that has exited is ErrNotRunning. What the container has is laid over what its
// bundle says; the bundle is the caller's to keep up to date.
func (s *Shims) Update(ctx context.Context, req UpdateRequest) error {
	data, err := json.Marshal(req.Resources)
	if err != nil {
		return fmt.Errorf("container %s: resources: %w: %w", req.ID, ErrInvalid, err)
	}
	r := &taskapi.UpdateTaskRequest{Id: req.ID, Resources: &anypb.Any{TypeUrl: resourcesType, Value: data}}
	if req.OOMScoreAdj != nil {
		r.Annotations = map[string]string{api.OOMScoreAdj: strconv.Itoa(*req.OOMScoreAdj)}
	}
	return s.onTask(ctx, req.ID, func(t taskapi.TaskService) error {
		_, err := t.Update(ctx, r)
		return err
	})
}
