package cri

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/netns"
	"github.com/berthd/berth/sandbox"
	"github.com/berthd/berth/sandbox/cgroupstat"
)

// stats answers what containers and pods use.
type stats struct {
	stats  *sandbox.Stats
	images *imageservice.Service
}

// mountpoint names the file system of images and containers, as ImageFsInfo does.
func (s stats) mountpoint(ctx context.Context) (string, error) {
	u, err := s.images.Usage(ctx)
	return u.Mountpoint, err
}

// ContainerStats implements the RPC. Of a stopped container it tells the writable
// layer: its counters are gone with its cgroup.
func (s stats) ContainerStats(ctx context.Context, req *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	if err := checkID("container_id", req.GetContainerId()); err != nil {
		return nil, err
	}
	st, err := s.stats.Container(ctx, req.GetContainerId())
	if err != nil {
		return nil, err
	}
	mountpoint, err := s.mountpoint(ctx)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStatsResponse{Stats: containerStats(st, mountpoint)}, nil
}

// ListContainerStats implements the RPC: the running containers. One that goes
// meanwhile is left out.
func (s stats) ListContainerStats(ctx context.Context, req *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	list, err := s.containers(ctx, req.GetFilter())
	return &runtimeapi.ListContainerStatsResponse{Stats: list}, err
}

// StreamContainerStats implements the RPC: one reading of all, sent in parts.
func (s stats) StreamContainerStats(req *runtimeapi.StreamContainerStatsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamContainerStatsResponse]) error {
	list, err := s.containers(stream.Context(), req.GetFilter())
	if err != nil {
		return err
	}
	return sendChunks(list, func(part []*runtimeapi.ContainerStats) error {
		return stream.Send(&runtimeapi.StreamContainerStatsResponse{ContainerStats: part})
	})
}

func (s stats) containers(ctx context.Context, f *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	mountpoint, err := s.mountpoint(ctx)
	if err != nil {
		return nil, err
	}
	found := s.stats.Containers(ctx, func(r sandbox.ContainerRecord) bool {
		return idMatches(r.ID, f.GetId()) && idMatches(r.PodID, f.GetPodSandboxId()) &&
			labelsMatch(r.Config().GetLabels(), f.GetLabelSelector())
	})
	return containerStatsList(found, mountpoint), nil
}

func containerStatsList(found []sandbox.ContainerStats, mountpoint string) []*runtimeapi.ContainerStats {
	slices.SortFunc(found, func(a, b sandbox.ContainerStats) int {
		return newestFirst(a.Record.CreatedAt, b.Record.CreatedAt, a.Record.ID, b.Record.ID)
	})
	list := make([]*runtimeapi.ContainerStats, len(found))
	for i, st := range found {
		list[i] = containerStats(st, mountpoint)
	}
	return list
}

// PodSandboxStats implements the RPC. kubelet asks it for the ID "" when it starts, to
// see whether it is implemented; that is an invalid argument.
func (s stats) PodSandboxStats(ctx context.Context, req *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	if err := checkID("pod_sandbox_id", req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	st, err := s.stats.Pod(ctx, req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	mountpoint, err := s.mountpoint(ctx)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PodSandboxStatsResponse{Stats: podStats(st, mountpoint)}, nil
}

// ListPodSandboxStats implements the RPC: the ready pods.
func (s stats) ListPodSandboxStats(ctx context.Context, req *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	list, err := s.pods(ctx, req.GetFilter())
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: list}, err
}

// StreamPodSandboxStats implements the RPC: one reading of all, sent in parts.
func (s stats) StreamPodSandboxStats(req *runtimeapi.StreamPodSandboxStatsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxStatsResponse]) error {
	list, err := s.pods(stream.Context(), req.GetFilter())
	if err != nil {
		return err
	}
	return sendChunks(list, func(part []*runtimeapi.PodSandboxStats) error {
		return stream.Send(&runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: part})
	})
}

func (s stats) pods(ctx context.Context, f *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	mountpoint, err := s.mountpoint(ctx)
	if err != nil {
		return nil, err
	}
	found := s.stats.Pods(ctx, func(r sandbox.PodRecord) bool {
		return idMatches(r.ID, f.GetId()) && labelsMatch(r.Config().GetLabels(), f.GetLabelSelector())
	})
	slices.SortFunc(found, func(a, b sandbox.PodStats) int {
		return newestFirst(a.Record.CreatedAt, b.Record.CreatedAt, a.Record.ID, b.Record.ID)
	})
	list := make([]*runtimeapi.PodSandboxStats, len(found))
	for i, st := range found {
		list[i] = podStats(st, mountpoint)
	}
	return list, nil
}

func podStats(st sandbox.PodStats, mountpoint string) *runtimeapi.PodSandboxStats {
	cfg := st.Record.Config()
	linux := &runtimeapi.LinuxPodSandboxStats{
		Network:    networkUsage(st.Network, st.NetworkAt),
		Containers: containerStatsList(st.Containers, mountpoint),
	}
	if cg := st.Cgroup; cg != nil {
		linux.Cpu, linux.Memory, linux.Io = cpuUsage(cg, st.NanoCores), memoryUsage(cg), ioUsage(cg)
		if st.Processes != nil {
			linux.Process = &runtimeapi.ProcessUsage{Timestamp: cg.Time.UnixNano(), ProcessCount: number(*st.Processes)}
		}
	}
	return &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{Id: st.Record.ID, Metadata: cfg.GetMetadata(),
			Labels: cfg.GetLabels(), Annotations: cfg.GetAnnotations()},
		Linux: linux,
	}
}

func containerStats(st sandbox.ContainerStats, mountpoint string) *runtimeapi.ContainerStats {
	cfg := st.Record.Config()
	out := &runtimeapi.ContainerStats{Attributes: &runtimeapi.ContainerAttributes{
		Id: st.Record.ID, Metadata: cfg.GetMetadata(), Labels: cfg.GetLabels(), Annotations: cfg.GetAnnotations(),
	}}
	if cg := st.Cgroup; cg != nil {
		out.Cpu, out.Memory, out.Swap, out.Io = cpuUsage(cg, st.NanoCores), memoryUsage(cg), swapUsage(cg), ioUsage(cg)
	}
	if st.Layer != nil {
		out.WritableLayer = filesystemUsage(mountpoint, st.Layer.Bytes, st.Layer.Inodes, st.Layer.At)
	}
	return out
}

func cpuUsage(cg *cgroupstat.Stats, nanoCores *uint64) *runtimeapi.CpuUsage {
	u := &runtimeapi.CpuUsage{Timestamp: cg.Time.UnixNano(), UsageCoreNanoSeconds: number(cg.CPU.Usage), Psi: psi(cg.Pressure.CPU)}
	if nanoCores != nil {
		u.UsageNanoCores = number(*nanoCores)
	}
	return u
}

func memoryUsage(cg *cgroupstat.Stats) *runtimeapi.MemoryUsage {
	m := cg.Memory
	u := &runtimeapi.MemoryUsage{
		Timestamp:       cg.Time.UnixNano(),
		WorkingSetBytes: number(m.WorkingSet),
		UsageBytes:      number(m.Usage),
		RssBytes:        number(m.RSS),
		PageFaults:      number(m.MinorFaults()),
		MajorPageFaults: number(m.MajorFaults),
		Psi:             psi(cg.Pressure.Memory),
	}
	if left, ok := m.Available(); ok {
		u.AvailableBytes = number(left)
	}
	return u
}

// swapUsage is nil where the kernel does not account for swap.
func swapUsage(cg *cgroupstat.Stats) *runtimeapi.SwapUsage {
	if !cg.Swap.Known {
		return nil
	}
	u := &runtimeapi.SwapUsage{Timestamp: cg.Time.UnixNano(), SwapUsageBytes: number(cg.Swap.Usage)}
	if left, ok := cg.Swap.Available(); ok {
		u.SwapAvailableBytes = number(left)
	}
	return u
}

// ioUsage has pressure and nothing else to tell; it is nil without.
func ioUsage(cg *cgroupstat.Stats) *runtimeapi.IoUsage {
	if cg.Pressure.IO == nil {
		return nil
	}
	return &runtimeapi.IoUsage{Timestamp: cg.Time.UnixNano(), Psi: psi(cg.Pressure.IO)}
}

func psi(s *cgroupstat.Stall) *runtimeapi.PsiStats {
	if s == nil {
		return nil
	}
	data := func(t cgroupstat.StallTime) *runtimeapi.PsiData {
		return &runtimeapi.PsiData{Total: t.Total, Avg10: t.Avg10, Avg60: t.Avg60, Avg300: t.Avg300}
	}
	return &runtimeapi.PsiStats{Full: data(s.Full), Some: data(s.Some)}
}

// networkUsage is nil for a pod without a network of its own, and for one that is
// stopped.
func networkUsage(list []netns.Interface, at time.Time) *runtimeapi.NetworkUsage {
	if at.IsZero() {
		return nil
	}
	u := &runtimeapi.NetworkUsage{Timestamp: at.UnixNano()}
	for _, i := range list {
		one := &runtimeapi.NetworkInterfaceUsage{Name: i.Name,
			RxBytes: number(i.RxBytes), RxErrors: number(i.RxErrors), TxBytes: number(i.TxBytes), TxErrors: number(i.TxErrors)}
		if i.Default {
			u.DefaultInterface = one
			continue
		}
		u.Interfaces = append(u.Interfaces, one)
	}
	return u
}

func filesystemUsage(mountpoint string, bytes, inodes uint64, at time.Time) *runtimeapi.FilesystemUsage {
	return &runtimeapi.FilesystemUsage{
		Timestamp:  at.UnixNano(),
		FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: mountpoint},
		UsedBytes:  number(bytes),
		InodesUsed: number(inodes),
	}
}

func number(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }
