package stats

import (
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// expected are the metrics that kubelet 1.37 has from cAdvisor for a pod with one
// container, as critest checks them since cri-tools 1.37.
const expected = `
container_blkio_device_usage_total container_cpu_cfs_periods_total container_cpu_cfs_throttled_periods_total
container_cpu_cfs_throttled_seconds_total container_cpu_system_seconds_total container_cpu_usage_seconds_total
container_cpu_user_seconds_total container_file_descriptors container_fs_inodes_free container_fs_inodes_total
container_fs_limit_bytes container_fs_reads_bytes_total container_fs_reads_total container_fs_usage_bytes
container_fs_writes_bytes_total container_fs_writes_total container_hugetlb_max_usage_bytes container_hugetlb_usage_bytes
container_last_seen container_memory_cache container_memory_failcnt container_memory_failures_total
container_memory_kernel_usage container_memory_mapped_file container_memory_max_usage_bytes container_memory_rss
container_memory_swap container_memory_usage_bytes container_memory_working_set_bytes
container_network_receive_bytes_total container_network_receive_errors_total container_network_receive_packets_dropped_total
container_network_receive_packets_total container_network_transmit_bytes_total container_network_transmit_errors_total
container_network_transmit_packets_dropped_total container_network_transmit_packets_total container_oom_events_total
container_pressure_cpu_stalled_seconds_total container_pressure_cpu_waiting_seconds_total
container_pressure_io_stalled_seconds_total container_pressure_io_waiting_seconds_total
container_pressure_memory_stalled_seconds_total container_pressure_memory_waiting_seconds_total container_processes
container_sockets container_spec_cpu_period container_spec_cpu_quota container_spec_cpu_shares
container_spec_memory_limit_bytes container_spec_memory_reservation_limit_bytes container_spec_memory_swap_limit_bytes
container_start_time_seconds container_threads container_threads_max container_ulimits_soft`

// maybe tells whether a machine may have no value for a metric: a root file system that
// is no block device counts no I/O, and not every kernel has PSI and huge pages.
func maybe(name string) bool {
	for _, prefix := range []string{"container_blkio_", "container_fs_reads_", "container_fs_writes_", "container_hugetlb_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return strings.HasPrefix(name, "container_pressure_") && !node.PressureCounted()
}

// descriptors checks and returns the label keys of all metrics.
func descriptors(t *testing.T, b *bench) map[string][]string {
	t.Helper()
	resp, err := b.ListMetricDescriptors(t.Context(), &runtimeapi.ListMetricDescriptorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string][]string{}
	for _, d := range resp.GetDescriptors() {
		if d.GetHelp() == "" || len(d.GetLabelKeys()) == 0 || keys[d.GetName()] != nil {
			t.Errorf("descriptor: %v", d)
		}
		keys[d.GetName()] = d.GetLabelKeys()
	}
	for name := range strings.FieldsSeq(expected) {
		if keys[name] == nil {
			t.Errorf("no descriptor: %s", name)
		}
	}
	return keys
}

func TestMetrics(t *testing.T) {
	b := setUp(t)
	ctx := t.Context()
	keys := descriptors(t, b)
	pod := node.Pod("metrics", b.Logs)
	podID, err := b.RunPod(ctx, pod)
	if err != nil {
		t.Fatal(err)
	}
	conf := node.Container("measured", busybox, "sleep", "1000")
	conf.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 20000, CpuShares: 1024,
		MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 64 << 20}
	id, err := b.Run(ctx, podID, pod, conf)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Timeout: 20, Cmd: []string{"sh", "-c", "echo hi > /file; sync"}})
	if err != nil {
		t.Fatal(err)
	}
	found := b.metrics(t, keys)[podID]
	for name := range keys {
		if found[name] == nil && !maybe(name) {
			t.Errorf("not told: %s", name)
		}
	}
	for name, want := range map[string]uint64{
		"container_spec_cpu_period": 100000, "container_spec_cpu_quota": 20000, "container_spec_cpu_shares": 1024,
		"container_spec_memory_limit_bytes": 64 << 20, "container_processes": 1, "container_threads": 1,
	} {
		i := slices.IndexFunc(found[name], func(m *runtimeapi.Metric) bool { return m.GetLabelValues()[3] == id })
		if i < 0 || found[name][i].GetValue().GetValue() != want {
			t.Errorf("%s: %v, want %d", name, found[name], want)
			continue
		}
		if l := found[name][i].GetLabelValues(); l[0] != "measured" || !strings.HasSuffix(l[1], id) || l[2] != busybox || l[4] != "test" || l[5] != "metrics" {
			t.Errorf("%s: labels %v", name, l)
		}
	}
	// A pod with a cgroup of its own has metrics of that too, which no sum over containers counts.
	own := b.metrics(t, keys)[b.pods[0]]["container_cpu_usage_seconds_total"]
	i := slices.IndexFunc(own, func(m *runtimeapi.Metric) bool { return m.GetLabelValues()[1] == b.cgroup.Parent })
	if i < 0 {
		t.Fatalf("pod's own: %v", own)
	}
	if l := own[i].GetLabelValues(); l[0] != "" || l[2] != "" || l[3] != "" || l[4] != "test" || l[5] != "pod0" {
		t.Errorf("pod's own: %v", l)
	}
}

// metrics lists and streams, checks every metric against its descriptor, and returns
// them by pod and name.
func (b *bench) metrics(t *testing.T, keys map[string][]string) map[string]map[string][]*runtimeapi.Metric {
	t.Helper()
	resp, err := b.ListPodSandboxMetrics(t.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := b.StreamPodSandboxMetrics(t.Context(), &runtimeapi.StreamPodSandboxMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	streamed := 0
	for {
		part, err := stream.Recv()
		if err != nil {
			break
		}
		streamed += len(part.GetPodSandboxMetrics())
	}
	if streamed != len(resp.GetPodMetrics()) {
		t.Errorf("%d pods listed, %d streamed", len(resp.GetPodMetrics()), streamed)
	}
	all := map[string]map[string][]*runtimeapi.Metric{}
	for _, p := range resp.GetPodMetrics() {
		list := p.GetMetrics()
		for _, c := range p.GetContainerMetrics() {
			list = append(list, c.GetMetrics()...)
		}
		byName := map[string][]*runtimeapi.Metric{}
		for _, m := range list {
			if k := keys[m.GetName()]; k == nil || len(k) != len(m.GetLabelValues()) {
				t.Errorf("%v: its descriptor has the labels %v", m, k)
			}
			byName[m.GetName()] = append(byName[m.GetName()], m)
		}
		all[p.GetPodSandboxId()] = byName
	}
	return all
}
