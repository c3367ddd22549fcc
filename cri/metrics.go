package cri

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/netns"
	"github.com/berthd/berth/sandbox"
	"github.com/berthd/berth/sandbox/cgroupstat"
)

// metrics answers what kubelet shows at /metrics/cadvisor in cAdvisor's place. The
// table in metrics_table.go is descriptors and values in one.
type metrics struct {
	stats *sandbox.Stats
}

// subjectLabels begin the labels of every metric, as kubelet has them for cAdvisor's: the
// name of the container, its cgroup, its image, its ID, and namespace and name of the pod.
// Of a metric about a pod, the first, third and fourth are empty, so that a sum over
// containers does not count anything twice.
var subjectLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

// A subject is what a set of metrics is about: a pod or a container. What it has not
// is nil.
type subject struct {
	labels    []string // values of subjectLabels
	cgroup    *cgroupstat.Stats
	processes *cgroupstat.Processes
	network   []netns.Interface
	layer     *sandbox.LayerUsage
	fs        *sandbox.Filesystem
	startedAt int64 // nanoseconds since 1970
	seenAt    time.Time
}

// A sample is one value of a metric, with the values of the labels that the metric has
// beyond the subject's.
type sample struct {
	value  uint64
	labels []string
	at     time.Time // when it was measured, if that was not for this call
}

// A metric is one line of the table.
type metric struct {
	name, help string
	kind       runtimeapi.MetricType
	labels     []string // beyond subjectLabels
	samples    func(subject) []sample
}

// ListMetricDescriptors implements the RPC. The list never changes while berthd runs.
func (metrics) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	table := metricTable()
	list := make([]*runtimeapi.MetricDescriptor, len(table))
	for i, m := range table {
		list[i] = &runtimeapi.MetricDescriptor{Name: m.name, Help: m.help, LabelKeys: slices.Concat(subjectLabels, m.labels)}
	}
	return &runtimeapi.ListMetricDescriptorsResponse{Descriptors: list}, nil
}

// ListPodSandboxMetrics implements the RPC: the ready pods and their running containers.
func (s metrics) ListPodSandboxMetrics(ctx context.Context, _ *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	list, err := s.pods(ctx)
	return &runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: list}, err
}

// StreamPodSandboxMetrics implements the RPC: one reading of all, sent in parts.
func (s metrics) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxMetricsResponse]) error {
	list, err := s.pods(stream.Context())
	if err != nil {
		return err
	}
	return sendChunks(list, func(part []*runtimeapi.PodSandboxMetrics) error {
		return stream.Send(&runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: part})
	})
}

func (s metrics) pods(ctx context.Context) ([]*runtimeapi.PodSandboxMetrics, error) {
	fs, err := s.stats.Filesystem()
	if err != nil {
		return nil, err
	}
	found := s.stats.Metrics(ctx)
	slices.SortFunc(found, func(a, b sandbox.PodStats) int {
		return newestFirst(a.Record.CreatedAt, b.Record.CreatedAt, a.Record.ID, b.Record.ID)
	})
	table, now := metricTable(), time.Now()
	list := make([]*runtimeapi.PodSandboxMetrics, len(found))
	for i, p := range found {
		list[i] = podMetrics(table, p, fs, now)
	}
	return list, nil
}

func podMetrics(table []metric, p sandbox.PodStats, fs sandbox.Filesystem, now time.Time) *runtimeapi.PodSandboxMetrics {
	m := p.Record.Config().GetMetadata()
	out := &runtimeapi.PodSandboxMetrics{PodSandboxId: p.Record.ID, Metrics: values(table, subject{
		labels: []string{"", p.CgroupPath, "", "", m.GetNamespace(), m.GetName()},
		cgroup: ownCgroup(p), processes: p.Details, network: p.Network, startedAt: p.Record.CreatedAt, seenAt: now,
	})}
	for _, c := range p.Containers {
		cfg := c.Record.Config()
		out.ContainerMetrics = append(out.ContainerMetrics, &runtimeapi.ContainerMetrics{ContainerId: c.Record.ID, Metrics: values(table, subject{
			labels: []string{cfg.GetMetadata().GetName(), c.CgroupPath, imageSpec(&c.Record).GetImage(), c.Record.ID, m.GetNamespace(), m.GetName()},
			cgroup: c.Cgroup, processes: c.Processes, layer: c.Layer, fs: &fs, startedAt: c.Record.StartedAt, seenAt: now,
		})})
	}
	return out
}

// ownCgroup is the pod's cgroup, if it has one: a sum of its containers is for whoever
// reads the metrics to make.
func ownCgroup(p sandbox.PodStats) *cgroupstat.Stats {
	if p.CgroupPath == "" {
		return nil
	}
	return p.Cgroup
}

// values is what the table has to say about s.
func values(table []metric, s subject) []*runtimeapi.Metric {
	var list []*runtimeapi.Metric
	for _, m := range table {
		for _, one := range m.samples(s) {
			v := &runtimeapi.Metric{Name: m.name, MetricType: m.kind, LabelValues: slices.Concat(s.labels, one.labels), Value: number(one.value)}
			if !one.at.IsZero() {
				v.Timestamp = one.at.UnixNano() // CRI, Metric: 0 when gathered live
			}
			list = append(list, v)
		}
	}
	return list
}
