package contract

import (
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// TestPodStatusWithContainers: a pod's status has its containers' and a time
// that grows, from which an evented kubelet knows the newer of two.
func TestPodStatusWithContainers(t *testing.T) {
	f := openFixture(t)
	ask := func() *runtimeapi.PodSandboxStatusResponse {
		resp, err := f.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: f.ready})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	first, second := ask(), ask()
	if second.GetTimestamp() <= first.GetTimestamp() {
		t.Errorf("time %d after %d", second.GetTimestamp(), first.GetTimestamp())
	}
	var got []string
	for _, s := range first.GetContainersStatuses() {
		got = append(got, s.GetId())
		if !proto.Equal(s, f.status(t, s.GetId())) {
			t.Errorf("%v is not its status", s)
		}
	}
	same(t, "containers of the pod", got, []string{f.created, f.running, f.exited}, nil)
	f.Done(t)
}

// busy makes a pod with a container that works, writes a file and uses memory.
func busy(t *testing.T, f *fixture) (podID, id string, conf *runtimeapi.ContainerConfig) {
	t.Helper()
	pod := node.Pod("stats", f.Logs)
	pod.Labels, pod.Annotations = awkward("pod"), awkward("pod")
	podID = f.run(t, pod)
	conf = node.Container("busy", busybox, "sh", "-c", "head -c 3000000 /dev/urandom >/written; exec sleep 1000")
	conf.Labels, conf.Annotations = awkward("container"), awkward("container")
	id, err := f.Run(t.Context(), podID, pod, conf)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the file is written", func() bool { return f.sh(t, id, "stat -c %s /written") == "3000000\n" })
	return podID, id, conf
}

// TestStatsFields: numbers that are there, that move the right way, and that fit
// each other.
func TestStatsFields(t *testing.T) {
	f := openPulled(t)
	ctx := t.Context()
	podID, id, conf := busy(t, f)
	one, err := f.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	f.numbers(t, one.GetStats(), conf)
	f.sh(t, id, "head -c 20000000 /dev/urandom >/dev/null")
	// A rate is taken from the question before, a second later at the earliest.
	eventually(t, "a rate of CPU use", func() bool {
		again, err := f.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: id})
		if err != nil {
			t.Fatal(err)
		}
		before, now := one.GetStats().GetCpu(), again.GetStats().GetCpu()
		if now.GetUsageCoreNanoSeconds().GetValue() < before.GetUsageCoreNanoSeconds().GetValue() || now.GetTimestamp() < before.GetTimestamp() {
			t.Errorf("CPU goes back from %v to %v", before, now)
		}
		time.Sleep(100 * time.Millisecond)
		return now.GetUsageNanoCores() != nil
	})
	pod, err := f.PodSandboxStats(ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: podID})
	if err != nil {
		t.Fatal(err)
	}
	f.podNumbers(t, pod.GetStats())
	f.Done(t)
}

func (f *fixture) numbers(t *testing.T, s *runtimeapi.ContainerStats, conf *runtimeapi.ContainerConfig) {
	t.Helper()
	info, err := f.Images.ImageFsInfo(t.Context(), &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	a, mem := s.GetAttributes(), s.GetMemory()
	for what, ok := range map[string]bool{
		"attributes":  proto.Equal(a.GetMetadata(), conf.Metadata) && maps.Equal(a.GetLabels(), conf.Labels) && maps.Equal(a.GetAnnotations(), conf.Annotations),
		"CPU":         s.GetCpu().GetTimestamp() > 0 && s.GetCpu().GetUsageCoreNanoSeconds().GetValue() > 0,
		"working set": mem.GetTimestamp() > 0 && mem.GetWorkingSetBytes().GetValue() > 0 && mem.GetWorkingSetBytes().GetValue() <= mem.GetUsageBytes().GetValue(),
		"available":   mem.GetAvailableBytes().GetValue() > 0 && mem.GetAvailableBytes().GetValue() <= 64<<20,
		"RSS, faults": mem.GetRssBytes() != nil && mem.GetPageFaults().GetValue() > 0 && mem.GetMajorPageFaults() != nil,
		"writable layer": s.GetWritableLayer().GetTimestamp() > 0 && s.GetWritableLayer().GetUsedBytes().GetValue() >= 3000000 &&
			s.GetWritableLayer().GetInodesUsed().GetValue() > 0,
		"file system": s.GetWritableLayer().GetFsId().GetMountpoint() == info.GetContainerFilesystems()[0].GetFsId().GetMountpoint(),
	} {
		if !ok {
			t.Errorf("%s: %v", what, s)
		}
	}
	for what, psi := range map[string]*runtimeapi.PsiStats{"cpu": s.GetCpu().GetPsi(), "memory": mem.GetPsi(), "io": s.GetIo().GetPsi()} {
		if there("/proc/pressure") != (psi != nil) {
			t.Errorf("%s pressure %v, and the kernel has it: %t", what, psi, there("/proc/pressure"))
		}
	}
}

func (f *fixture) podNumbers(t *testing.T, s *runtimeapi.PodSandboxStats) {
	t.Helper()
	l := s.GetLinux()
	eth := l.GetNetwork().GetDefaultInterface()
	for what, ok := range map[string]bool{
		"attributes": maps.Equal(s.GetAttributes().GetLabels(), awkward("pod")) && maps.Equal(s.GetAttributes().GetAnnotations(), awkward("pod")) &&
			s.GetAttributes().GetMetadata().GetName() == "stats",
		"CPU":     l.GetCpu().GetTimestamp() > 0 && l.GetCpu().GetUsageCoreNanoSeconds().GetValue() > 0,
		"memory":  l.GetMemory().GetTimestamp() > 0 && l.GetMemory().GetWorkingSetBytes().GetValue() > 0,
		"network": l.GetNetwork().GetTimestamp() > 0 && eth.GetName() == "eth0" && eth.GetRxBytes() != nil && eth.GetTxBytes() != nil && eth.GetRxErrors() != nil && eth.GetTxErrors() != nil,
		"no lo":   !slices.ContainsFunc(l.GetNetwork().GetInterfaces(), func(i *runtimeapi.NetworkInterfaceUsage) bool { return i.GetName() == "lo" }),
		"process": l.GetProcess().GetTimestamp() > 0 && l.GetProcess().GetProcessCount().GetValue() > 0, "containers": len(l.GetContainers()) == 1,
	} {
		if !ok {
			t.Errorf("%s: %v", what, s)
		}
	}
}

// TestMetricsFields: every metric is described, has a value for every label, and
// both the pod's and the container's are there.
func TestMetricsFields(t *testing.T) {
	f := openPulled(t)
	ctx := t.Context()
	podID, id, _ := busy(t, f)
	described, err := f.ListMetricDescriptors(ctx, &runtimeapi.ListMetricDescriptorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string][]string{}
	for _, d := range described.GetDescriptors() {
		if _, twice := keys[d.GetName()]; twice || d.GetHelp() == "" || len(d.GetLabelKeys()) == 0 {
			t.Errorf("descriptor %v, described twice: %t", d, twice)
		}
		keys[d.GetName()] = d.GetLabelKeys()
	}
	list, err := f.ListPodSandboxMetrics(ctx, &runtimeapi.ListPodSandboxMetricsRequest{})
	if err != nil || len(list.GetPodMetrics()) != 1 || list.GetPodMetrics()[0].GetPodSandboxId() != podID {
		t.Fatal(list, err)
	}
	pod := list.GetPodMetrics()[0]
	if len(pod.GetContainerMetrics()) != 1 || pod.GetContainerMetrics()[0].GetContainerId() != id {
		t.Fatalf("containers' metrics: %v", pod.GetContainerMetrics())
	}
	seen := map[string]bool{}
	for _, m := range slices.Concat(pod.GetMetrics(), pod.GetContainerMetrics()[0].GetMetrics()) {
		seen[m.GetName()] = true
		if want, ok := keys[m.GetName()]; !ok || len(m.GetLabelValues()) != len(want) || m.GetValue() == nil {
			t.Errorf("metric %v with the labels %q", m, want)
		}
	}
	for _, want := range []string{"container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_memory_usage_bytes",
		"container_network_receive_bytes_total", "container_start_time_seconds", "container_spec_memory_limit_bytes", "container_processes"} {
		if !seen[want] {
			t.Errorf("no %s", want)
		}
	}
	f.Done(t)
}
