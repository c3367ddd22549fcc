package cri

import (
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/sandbox"
)

// updates changes what pods and containers may use.
type updates struct {
	pods       *sandbox.Pods
	containers *sandbox.Containers
}

// UpdateContainerResources implements the RPC: all of the request, or an error and
// nothing. The annotations are on record, and in the verbose status.
func (s updates) UpdateContainerResources(ctx context.Context, req *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	if err := checkID("container_id", req.GetContainerId()); err != nil {
		return nil, err
	}
	if req.GetWindows() != nil {
		return nil, invalid("windows", "this node runs Linux containers; set linux")
	}
	err := s.containers.Update(ctx, req.GetContainerId(), sandbox.Update{Resources: req.GetLinux(), Annotations: req.GetAnnotations()})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

// UpdatePodSandboxResources implements the RPC. kubelet has changed the pod's cgroup
// by now; what it says is put on record and shown by the verbose status.
func (s updates) UpdatePodSandboxResources(_ context.Context, req *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	if err := checkID("pod_sandbox_id", req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	if err := s.pods.UpdateResources(req.GetPodSandboxId(), req.GetOverhead(), req.GetResources()); err != nil {
		return nil, err
	}
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, nil
}

// resources is a message of limits inside the JSON of a verbose status.
type resources struct {
	*runtimeapi.LinuxContainerResources
}

// MarshalJSON implements json.Marshaler, with the names that the CRI's JSON has.
func (r resources) MarshalJSON() ([]byte, error) {
	if r.LinuxContainerResources == nil {
		return []byte("null"), nil
	}
	data, err := protojson.Marshal(r.LinuxContainerResources)
	if err != nil {
		return nil, fmt.Errorf("resources: %w", err)
	}
	return json.RawMessage(data), nil
}
