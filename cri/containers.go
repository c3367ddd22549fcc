package cri

import (
	"cmp"
	"context"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/sandbox"
)

// containers answers for containers.
type containers struct {
	containers *sandbox.Containers
	list       *listing[sandbox.ContainerRecord]
	handlers   handlers
}

// CreateContainer implements the RPC. The pod's configuration is the one it was
// made with; the request's copy is not looked at.
func (s containers) CreateContainer(ctx context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	if err := checkID("pod_sandbox_id", req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	if err := checkContainerConfig(req.GetConfig()); err != nil {
		return nil, err
	}
	if err := s.handlers.checkContainer(req.GetConfig()); err != nil {
		return nil, err
	}
	rec, err := s.containers.Create(ctx, req.GetPodSandboxId(), sandbox.ContainerSpec{Config: req.GetConfig()})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.CreateContainerResponse{ContainerId: rec.ID}, nil
}

// StartContainer implements the RPC.
func (s containers) StartContainer(ctx context.Context, req *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	if err := checkID("container_id", req.GetContainerId()); err != nil {
		return nil, err
	}
	if err := s.containers.Start(ctx, req.GetContainerId()); err != nil {
		return nil, err
	}
	return &runtimeapi.StartContainerResponse{}, nil
}

// StopContainer implements the RPC: unknown and exited containers are fine.
func (s containers) StopContainer(ctx context.Context, req *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	if err := checkID("container_id", req.GetContainerId()); err != nil {
		return nil, err
	}
	if err := s.containers.Stop(ctx, req.GetContainerId(), seconds(req.GetTimeout())); err != nil {
		return nil, err
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

// RemoveContainer implements the RPC: an unknown container is fine.
func (s containers) RemoveContainer(ctx context.Context, req *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	if err := checkID("container_id", req.GetContainerId()); err != nil {
		return nil, err
	}
	if err := s.containers.Remove(ctx, req.GetContainerId()); err != nil {
		return nil, err
	}
	return &runtimeapi.RemoveContainerResponse{}, nil
}

// ContainerStatus implements the RPC.
func (s containers) ContainerStatus(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	if err := checkID("container_id", req.GetContainerId()); err != nil {
		return nil, err
	}
	c, err := s.containers.Get(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	r := c.Record()
	resp := &runtimeapi.ContainerStatusResponse{Status: containerStatus(&r)}
	if req.GetVerbose() {
		resp.Info, err = verbose(containerInfo{ID: r.ID, SandboxID: r.PodID, State: r.State, Pid: r.Pid, LogPath: r.LogPath,
			Resources: resources{r.Resources()}, UpdateAnnotations: r.UpdateAnnotations}, c.Stages())
		if err == nil {
			resp.Info["pid"] = jsonInt(r.Pid)
		}
	}
	return resp, err
}

// ListContainers implements the RPC, newest first.
func (s containers) ListContainers(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	fields, err := s.list.fields(containerFilter(req.GetFilter()))
	return withFields(&runtimeapi.ListContainersResponse{}, fields), err
}

// StreamContainers implements the RPC: what ListContainers answers, in parts.
func (s containers) StreamContainers(req *runtimeapi.StreamContainersRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	var items []*runtimeapi.Container
	for _, r := range s.list.rows(containerFilter(req.GetFilter())) {
		items = append(items, containerItem(r.rec))
	}
	return sendChunks(items, func(part []*runtimeapi.Container) error {
		return stream.Send(&runtimeapi.StreamContainersResponse{Containers: part})
	})
}

// listContainers lists what cs has.
func listContainers(cs *sandbox.Containers) *listing[sandbox.ContainerRecord] {
	return &listing[sandbox.ContainerRecord]{changes: cs.Changes, look: func() []*row[sandbox.ContainerRecord] {
		all := cs.List()
		rows := make([]*row[sandbox.ContainerRecord], len(all))
		for i, c := range all {
			rows[i] = c.Made(containerRow).(*row[sandbox.ContainerRecord])
		}
		return rows
	}}
}

func containerRow(r *sandbox.ContainerRecord) any {
	return newRow(r, r.ID, r.CreatedAt, containerItem(r))
}

func containerState(s sandbox.State) runtimeapi.ContainerState {
	switch s {
	case sandbox.Created:
		return runtimeapi.ContainerState_CONTAINER_CREATED
	case sandbox.Running:
		return runtimeapi.ContainerState_CONTAINER_RUNNING
	default:
		return runtimeapi.ContainerState_CONTAINER_EXITED
	}
}

// imageSpec is the image as the user asked for it: kubelet asks for an ID and says
// what the user wrote beside it, and shows what it gets back in the pod's status.
func imageSpec(r *sandbox.ContainerRecord) *runtimeapi.ImageSpec {
	asked := r.Config().GetImage()
	return &runtimeapi.ImageSpec{
		Image:              cmp.Or(asked.GetUserSpecifiedImage(), asked.GetImage()),
		Annotations:        asked.GetAnnotations(),
		UserSpecifiedImage: asked.GetUserSpecifiedImage(),
		RuntimeHandler:     asked.GetRuntimeHandler(),
	}
}

func containerItem(r *sandbox.ContainerRecord) *runtimeapi.Container {
	return &runtimeapi.Container{
		Id:           r.ID,
		PodSandboxId: r.PodID,
		Metadata:     r.Config().GetMetadata(),
		Image:        imageSpec(r),
		ImageRef:     r.Image.Ref,
		ImageId:      r.Image.ID,
		State:        containerState(r.State),
		CreatedAt:    r.CreatedAt,
		Labels:       r.Config().GetLabels(),
		Annotations:  r.Config().GetAnnotations(),
	}
}

func containerStatus(r *sandbox.ContainerRecord) *runtimeapi.ContainerStatus {
	cfg := r.Config()
	status := &runtimeapi.ContainerStatus{
		Id:          r.ID,
		Metadata:    cfg.GetMetadata(),
		State:       containerState(r.State),
		CreatedAt:   r.CreatedAt,
		StartedAt:   r.StartedAt,
		Image:       imageSpec(r),
		ImageRef:    r.Image.Ref,
		ImageId:     r.Image.ID,
		Labels:      cfg.GetLabels(),
		Annotations: cfg.GetAnnotations(),
		Mounts:      r.Mounts(),
		LogPath:     r.LogPath,
		StopSignal:  sandbox.CRISignal(r.Stop),
		User:        containerUser(r),
	}
	if res := r.Resources(); res != nil {
		status.Resources = &runtimeapi.ContainerResources{Linux: res}
	}
	if status.State == runtimeapi.ContainerState_CONTAINER_EXITED {
		status.FinishedAt, status.ExitCode, status.Reason, status.Message = r.FinishedAt, r.ExitCode, r.Reason, r.Message
	}
	return status
}

// containerUser is who the first process is.
func containerUser(r *sandbox.ContainerRecord) *runtimeapi.ContainerUser {
	groups := make([]int64, 0, len(r.Identity.AdditionalGIDs))
	for _, g := range r.Identity.AdditionalGIDs {
		groups = append(groups, int64(g))
	}
	return &runtimeapi.ContainerUser{Linux: &runtimeapi.LinuxContainerUser{
		Uid: int64(r.Identity.UID), Gid: int64(r.Identity.GID), SupplementalGroups: groups,
	}}
}

// containerFilter tells which containers f is for; nil: for all.
func containerFilter(f *runtimeapi.ContainerFilter) func(*sandbox.ContainerRecord) bool {
	if f.GetId() == "" && f.GetPodSandboxId() == "" && f.GetState() == nil && len(f.GetLabelSelector()) == 0 {
		return nil
	}
	return func(r *sandbox.ContainerRecord) bool {
		return idMatches(r.ID, f.GetId()) &&
			idMatches(r.PodID, f.GetPodSandboxId()) &&
			(f.GetState() == nil || f.GetState().GetState() == containerState(r.State)) &&
			labelsMatch(r.Config().GetLabels(), f.GetLabelSelector())
	}
}

// seconds is a duration of n seconds; a negative one is none, an absurd one is
// the longest there is.
func seconds(n int64) time.Duration {
	const most = int64(1<<63-1) / int64(time.Second)
	return time.Duration(min(max(n, 0), most)) * time.Second
}
