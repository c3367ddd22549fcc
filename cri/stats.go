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
	return &runtimeapi.ContainerStatsResponse{Stats: containerStats(st, s.images.Mountpoint())}, nil
}

// ListContainerStats implements the RPC: the running containers. One that goes
// meanwhile is left out.
func (s stats) ListContainerStats(ctx context.Context, req *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	return &runtimeapi.ListContainerStatsResponse{Stats: s.containers(ctx, req.GetFilter())}, nil
}

// StreamContainerStats implements the RPC: one reading of all, sent in parts.
func (s stats) StreamContainerStats(req *runtimeapi.StreamContainerStatsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamContainerStatsResponse]) error {
	return sendChunks(s.containers(stream.Context(), req.GetFilter()), func(part []*runtimeapi.ContainerStats) error {
		return stream.Send(&runtimeapi.StreamContainerStatsResponse{ContainerStats: part})
	})
}

func (s stats) containers(ctx context.Context, f *runtimeapi.ContainerStatsFilter) []*runtimeapi.ContainerStats {
	found := s.stats.Containers(ctx, func(r sandbox.ContainerRecord) bool {
		return idMatches(r.ID, f.GetId()) && idMatches(r.PodID, f.GetPodSandboxId()) &&
			labelsMatch(r.Config().GetLabels(), f.GetLabelSelector())
	})
	return containerStatsList(found, s.images.Mountpoint())
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
	return &runtimeapi.PodSandboxStatsResponse{Stats: podStats(st, s.images.Mountpoint())}, nil
}

// ListPodSandboxStats implements the RPC: the ready pods.
func (s stats) ListPodSandboxStats(ctx context.Context, req *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: s.pods(ctx, req.GetFilter())}, nil
}

// StreamPodSandboxStats implements the RPC: one reading of all, sent in parts.
func (s stats) StreamPodSandboxStats(req *runtimeapi.StreamPodSandboxStatsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxStatsResponse]) error {
	return sendChunks(s.pods(stream.Context(), req.GetFilter()), func(part []*runtimeapi.PodSandboxStats) error {
		return stream.Send(&runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: part})
	})
}

func (s stats) pods(ctx context.Context, f *runtimeapi.PodSandboxStatsFilter) []*runtimeapi.PodSandboxStats {
	found := s.stats.Pods(ctx, func(r sandbox.PodRecord) bool {
		return idMatches(r.ID, f.GetId()) && labelsMatch(r.Config().GetLabels(), f.GetLabelSelector())
	})
	slices.SortFunc(found, func(a, b sandbox.PodStats) int {
		return newestFirst(a.Record.CreatedAt, b.Record.CreatedAt, a.Record.ID, b.Record.ID)
	})
	list := make([]*runtimeapi.PodSandboxStats, len(found))
	for i, st := range found {
		list[i] = podStats(st, s.images.Mountpoint())
	}
	return list
}

func podStats(st sandbox.PodStats, mountpoint string) *runtimeapi.PodSandboxStats {
	cfg := st.Record.Config()
	linux := &runtimeapi.LinuxPodSandboxStats{
		Network:    networkUsage(st.Network, st.NetworkAt),
		Containers: containerStatsList(st.Containers, mountpoint),
	}
	if cg := st.Cgroup; cg != nil {
		u := &usage{}
		linux.Cpu, linux.Memory, linux.Io = u.ofCPU(cg, st.NanoCores), u.ofMemory(cg), u.ofIO(cg)
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
	cfg, u := st.Record.Config(), &usage{}
	a := &u.attributes
	a.Id, a.Metadata, a.Labels, a.Annotations = st.Record.ID, cfg.GetMetadata(), cfg.GetLabels(), cfg.GetAnnotations()
	out := &u.container
	out.Attributes = a
	if cg := st.Cgroup; cg != nil {
		out.Cpu, out.Memory, out.Swap, out.Io = u.ofCPU(cg, st.NanoCores), u.ofMemory(cg), u.ofSwap(cg), u.ofIO(cg)
	}
	if st.Layer != nil {
		out.WritableLayer = filesystemUsage(mountpoint, st.Layer.Bytes, st.Layer.Inodes, st.Layer.At)
	}
	return out
}

// A usage is room for all the messages that tell what one cgroup uses: they come and go
// together, forty of them, for each container of the node at each question.
type usage struct {
	container  runtimeapi.ContainerStats
	attributes runtimeapi.ContainerAttributes

	cpu    runtimeapi.CpuUsage
	memory runtimeapi.MemoryUsage
	swap   runtimeapi.SwapUsage
	io     runtimeapi.IoUsage
	stalls [3]struct {
		stats      runtimeapi.PsiStats
		full, some runtimeapi.PsiData
	}
	numbers [10]runtimeapi.UInt64Value
	used    int // of numbers
}

func (u *usage) number(n uint64) *runtimeapi.UInt64Value {
	v := &u.numbers[u.used]
	u.used++
	v.Value = n
	return v
}

func (u *usage) ofCPU(cg *cgroupstat.Stats, nanoCores *uint64) *runtimeapi.CpuUsage {
	m := &u.cpu
	m.Timestamp, m.UsageCoreNanoSeconds, m.Psi = cg.Time.UnixNano(), u.number(cg.CPU.Usage), u.psi(0, cg.Pressure.CPU)
	if nanoCores != nil {
		m.UsageNanoCores = u.number(*nanoCores)
	}
	return m
}

func (u *usage) ofMemory(cg *cgroupstat.Stats) *runtimeapi.MemoryUsage {
	m := &u.memory
	m.Timestamp, m.Psi = cg.Time.UnixNano(), u.psi(1, cg.Pressure.Memory)
	m.WorkingSetBytes = u.number(cg.Memory.WorkingSet)
	m.UsageBytes = u.number(cg.Memory.Usage)
	m.RssBytes = u.number(cg.Memory.RSS)
	m.PageFaults = u.number(cg.Memory.MinorFaults())
	m.MajorPageFaults = u.number(cg.Memory.MajorFaults)
	if left, ok := cg.Memory.Available(); ok {
		m.AvailableBytes = u.number(left)
	}
	return m
}

// ofSwap is nil where the kernel does not account for swap.
func (u *usage) ofSwap(cg *cgroupstat.Stats) *runtimeapi.SwapUsage {
	if !cg.Swap.Known {
		return nil
	}
	m := &u.swap
	m.Timestamp, m.SwapUsageBytes = cg.Time.UnixNano(), u.number(cg.Swap.Usage)
	if left, ok := cg.Swap.Available(); ok {
		m.SwapAvailableBytes = u.number(left)
	}
	return m
}

// ofIO has pressure and nothing else to tell; it is nil without.
func (u *usage) ofIO(cg *cgroupstat.Stats) *runtimeapi.IoUsage {
	if cg.Pressure.IO == nil {
		return nil
	}
	m := &u.io
	m.Timestamp, m.Psi = cg.Time.UnixNano(), u.psi(2, cg.Pressure.IO)
	return m
}

func (u *usage) psi(i int, s *cgroupstat.Stall) *runtimeapi.PsiStats {
	if s == nil {
		return nil
	}
	fill := func(m *runtimeapi.PsiData, t cgroupstat.StallTime) *runtimeapi.PsiData {
		m.Total, m.Avg10, m.Avg60, m.Avg300 = t.Total, t.Avg10, t.Avg60, t.Avg300
		return m
	}
	m := &u.stalls[i]
	m.stats.Full, m.stats.Some = fill(&m.full, s.Full), fill(&m.some, s.Some)
	return &m.stats
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
