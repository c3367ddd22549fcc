package cri

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/sandbox"
	"github.com/berthd/berth/sandbox/spec"
)

// pods answers for pod sandboxes.
type pods struct {
	pods          *sandbox.Pods
	list          *listing[sandbox.PodRecord]
	systemdCgroup bool
}

// RunPodSandbox implements the RPC. On success the pod is ready.
func (s pods) RunPodSandbox(ctx context.Context, req *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	if err := checkPodConfig(req.GetConfig()); err != nil {
		return nil, err
	}
	// Its containers would be refused one by one.
	if _, err := spec.CgroupsPath(req.GetConfig().GetLinux().GetCgroupParent(), "pod", s.systemdCgroup); err != nil {
		return nil, err
	}
	rec, err := s.pods.Run(ctx, sandbox.PodSpec{Config: req.GetConfig(), Handler: req.GetRuntimeHandler()})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: rec.ID}, nil
}

// StopPodSandbox implements the RPC: unknown and stopped pods are fine.
func (s pods) StopPodSandbox(ctx context.Context, req *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	if err := checkID("pod_sandbox_id", req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	if err := s.pods.Stop(ctx, req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

// RemovePodSandbox implements the RPC: running containers are killed and removed
// with the pod; an unknown pod is fine.
func (s pods) RemovePodSandbox(ctx context.Context, req *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	if err := checkID("pod_sandbox_id", req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	if err := s.pods.Remove(ctx, req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

// PodSandboxStatus implements the RPC. With the pod comes the status of each of
// its containers, as of the timestamp: kubelet orders it among the events of
// GetContainerEvents by that.
func (s pods) PodSandboxStatus(_ context.Context, req *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	if err := checkID("pod_sandbox_id", req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	p, err := s.pods.Get(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	snap := p.Snapshot()
	r := snap.Pod
	resp := &runtimeapi.PodSandboxStatusResponse{Status: podStatus(r), ContainersStatuses: containerStatuses(snap), Timestamp: snap.At}
	if proto.Size(resp) > maxMessage-messageRoom {
		resp.ContainersStatuses, resp.Timestamp = nil, 0 // kubelet then asks for each of them
	}
	if req.GetVerbose() {
		resp.Info, err = verbose(podInfo{ID: r.ID, State: r.State, Reason: r.Reason, Owed: r.Owed, NetNS: r.Namespaces.Net, IPs: r.IPs, CreatedAt: r.CreatedAt,
			Overhead: resources{r.Overhead()}, Resources: resources{r.Resources()}}, p.Stages())
	}
	return resp, err
}

// ListPodSandbox implements the RPC, newest first.
func (s pods) ListPodSandbox(_ context.Context, req *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	fields, err := s.list.fields(podFilter(req.GetFilter()))
	return withFields(&runtimeapi.ListPodSandboxResponse{}, fields), err
}

// StreamPodSandboxes implements the RPC: what ListPodSandbox answers, in parts.
func (s pods) StreamPodSandboxes(req *runtimeapi.StreamPodSandboxesRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	var items []*runtimeapi.PodSandbox
	for _, r := range s.list.rows(podFilter(req.GetFilter())) {
		items = append(items, podItem(r.rec))
	}
	return sendChunks(items, func(part []*runtimeapi.PodSandbox) error {
		return stream.Send(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: part})
	})
}

// listPods lists what ps has.
func listPods(ps *sandbox.Pods) *listing[sandbox.PodRecord] {
	return &listing[sandbox.PodRecord]{changes: ps.Changes, look: func() []*row[sandbox.PodRecord] {
		all := ps.List()
		rows := make([]*row[sandbox.PodRecord], len(all))
		for i, p := range all {
			rows[i] = p.Made(podRow).(*row[sandbox.PodRecord])
		}
		return rows
	}}
}

func podRow(r *sandbox.PodRecord) any { return newRow(r, r.ID, r.CreatedAt, podItem(r)) }

func podState(s sandbox.State) runtimeapi.PodSandboxState {
	if s == sandbox.Ready {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

func podItem(r *sandbox.PodRecord) *runtimeapi.PodSandbox {
	return &runtimeapi.PodSandbox{
		Id:             r.ID,
		Metadata:       r.Config().GetMetadata(),
		State:          podState(r.State),
		CreatedAt:      r.CreatedAt,
		Labels:         r.Config().GetLabels(),
		Annotations:    r.Config().GetAnnotations(),
		RuntimeHandler: r.Handler,
	}
}

func podStatus(r sandbox.PodRecord) *runtimeapi.PodSandboxStatus {
	options := r.Config().GetLinux().GetSecurityContext().GetNamespaceOptions()
	if options == nil {
		options = &runtimeapi.NamespaceOption{}
	}
	network := &runtimeapi.PodSandboxNetworkStatus{}
	for i, ip := range r.IPs {
		if i == 0 {
			network.Ip = ip
			continue
		}
		network.AdditionalIps = append(network.AdditionalIps, &runtimeapi.PodIP{Ip: ip})
	}
	return &runtimeapi.PodSandboxStatus{
		Id:             r.ID,
		Metadata:       r.Config().GetMetadata(),
		State:          podState(r.State),
		CreatedAt:      r.CreatedAt,
		Network:        network,
		Linux:          &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: options}},
		Labels:         r.Config().GetLabels(),
		Annotations:    r.Config().GetAnnotations(),
		RuntimeHandler: r.Handler,
	}
}

// podFilter tells which pods f is for; nil: for all.
func podFilter(f *runtimeapi.PodSandboxFilter) func(*sandbox.PodRecord) bool {
	if f.GetId() == "" && f.GetState() == nil && len(f.GetLabelSelector()) == 0 {
		return nil
	}
	return func(r *sandbox.PodRecord) bool {
		return idMatches(r.ID, f.GetId()) &&
			(f.GetState() == nil || f.GetState().GetState() == podState(r.State)) &&
			labelsMatch(r.Config().GetLabels(), f.GetLabelSelector())
	}
}
