package stats

import (
	"fmt"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

const busybox = "docker.io/library/busybox:latest"

// busy works and never ends.
var busy = []string{"sh", "-c", "dd if=/dev/zero of=/file bs=1M count=3; while :; do :; done"}

// A bench is a node with two pods: one with a cgroup of its own, as kubelet makes it,
// and one without. Each has one busy container.
type bench struct {
	*node.Fresh
	cgroup     *node.PodCgroup // of the first pod
	configs    [2]*runtimeapi.PodSandboxConfig
	pods       [2]string
	containers [2]string
}

// open starts the node and its pods; containers are the caller's.
func open(t *testing.T) *bench {
	t.Helper()
	b := &bench{cgroup: node.MakePodCgroup(t, "berthstats")}
	b.Fresh = node.Running(t, node.CgroupDriver(), nil)
	if _, err := b.Pull(t.Context(), busybox); err != nil {
		t.Fatal(err)
	}
	for i := range b.pods {
		pod := node.Pod(fmt.Sprint("pod", i), b.Logs)
		pod.Labels = map[string]string{"pod": fmt.Sprint(i)}
		if i == 0 {
			pod.Linux.CgroupParent = b.cgroup.Parent
		}
		var err error
		if b.pods[i], err = b.RunPod(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		b.configs[i] = pod
	}
	return b
}

func setUp(t *testing.T) *bench {
	t.Helper()
	b := open(t)
	for i := range b.pods {
		c := node.Container(fmt.Sprint("busy", i), busybox, busy...)
		c.Labels = map[string]string{"container": fmt.Sprint(i)}
		c.Annotations = map[string]string{"a": "b"}
		var err error
		if b.containers[i], err = b.Run(t.Context(), b.pods[i], b.configs[i], c); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func (b *bench) stats(t *testing.T, id string) *runtimeapi.ContainerStats {
	t.Helper()
	resp, err := b.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetStats()
}

// until repeats ask, which a busy container changes the answer of, for a while.
func until(t *testing.T, what string, ask func() bool) {
	t.Helper()
	for deadline := time.Now().Add(node.Patience(20 * time.Second)); !ask(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: ", what)
		}
	}
}

func TestContainers(t *testing.T) {
	b := setUp(t)
	ctx := t.Context()
	for i, id := range b.containers {
		first := b.stats(t, id)
		if a := first.GetAttributes(); a.GetId() != id || a.GetMetadata().GetName() != fmt.Sprint("busy", i) ||
			a.GetLabels()["container"] != fmt.Sprint(i) || a.GetAnnotations()["a"] != "b" {
			t.Errorf("attributes: %v", a)
		}
		checkContainer(t, first)
		if first.GetCpu().GetUsageNanoCores() != nil {
			t.Error("a rate from one reading")
		}
		last := first
		until(t, "nano cores", func() bool {
			s := b.stats(t, id)
			if s.GetCpu().GetUsageCoreNanoSeconds().GetValue() < last.GetCpu().GetUsageCoreNanoSeconds().GetValue() {
				t.Fatal("CPU time went back")
			}
			last = s
			return s.GetCpu().GetUsageNanoCores() != nil
		})
		if n := last.GetCpu().GetUsageNanoCores().GetValue(); n < 1e7 || n > 2e9 {
			t.Errorf("a busy loop uses %d nano cores", n)
		}
	}
	b.checkList(t)

	if _, err := b.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: b.containers[0]}); err != nil {
		t.Fatal(err)
	}
	stopped := b.stats(t, b.containers[0])
	if stopped.GetAttributes().GetId() != b.containers[0] || stopped.GetCpu() != nil || stopped.GetWritableLayer().GetUsedBytes().GetValue() == 0 {
		t.Errorf("stopped: %v", stopped)
	}
	if ids := b.list(t, nil); len(ids) != 1 || ids[0] != b.containers[1] {
		t.Errorf("after a stop: %v", ids)
	}
	_, err := b.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: "0123"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("missing: %v", err)
	}
}

// checkContainer wants what every running container has.
func checkContainer(t *testing.T, s *runtimeapi.ContainerStats) {
	t.Helper()
	const limit = 64 << 20 // node.Container's
	m, c := s.GetMemory(), s.GetCpu()
	if c.GetTimestamp() <= 0 || m.GetTimestamp() <= 0 || c.GetUsageCoreNanoSeconds().GetValue() == 0 {
		t.Errorf("cpu: %v", c)
	}
	if m.GetUsageBytes().GetValue() == 0 || m.GetWorkingSetBytes().GetValue() > m.GetUsageBytes().GetValue() ||
		m.GetAvailableBytes().GetValue() != limit-m.GetWorkingSetBytes().GetValue() || m.GetPageFaults().GetValue() == 0 {
		t.Errorf("memory: %v", m)
	}
	if swap := s.GetSwap(); node.SwapCounted() && (swap.GetTimestamp() <= 0 || swap.GetSwapAvailableBytes().GetValue() > 1<<62) {
		t.Errorf("swap: %v", swap)
	}
	if node.PressureCounted() && (c.GetPsi().GetSome() == nil || m.GetPsi() == nil || s.GetIo().GetPsi() == nil || s.GetIo().GetTimestamp() <= 0) {
		t.Errorf("pressure: %v, %v, %v", c.GetPsi(), m.GetPsi(), s.GetIo())
	}
	w := s.GetWritableLayer()
	if w.GetTimestamp() <= 0 || w.GetUsedBytes() == nil || w.GetInodesUsed().GetValue() == 0 {
		t.Errorf("writable layer: %v", w)
	}
}

func (b *bench) list(t *testing.T, f *runtimeapi.ContainerStatsFilter) (ids []string) {
	t.Helper()
	resp, err := b.ListContainerStats(t.Context(), &runtimeapi.ListContainerStatsRequest{Filter: f})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := b.StreamContainerStats(t.Context(), &runtimeapi.StreamContainerStatsRequest{Filter: f})
	if err != nil {
		t.Fatal(err)
	}
	var streamed []string
	for {
		part, err := stream.Recv()
		if err != nil {
			break
		}
		for _, s := range part.GetContainerStats() {
			streamed = append(streamed, s.GetAttributes().GetId())
		}
	}
	for _, s := range resp.GetStats() {
		checkContainer(t, s)
		ids = append(ids, s.GetAttributes().GetId())
	}
	if fmt.Sprint(ids) != fmt.Sprint(streamed) {
		t.Errorf("listed %v, streamed %v", ids, streamed)
	}
	return ids
}

func (b *bench) checkList(t *testing.T) {
	t.Helper()
	both := fmt.Sprint([]string{b.containers[1], b.containers[0]}) // newest first
	first := fmt.Sprint([]string{b.containers[0]})
	for _, c := range []struct {
		filter *runtimeapi.ContainerStatsFilter
		want   string
	}{
		{nil, both},
		{&runtimeapi.ContainerStatsFilter{Id: b.containers[0]}, first},
		{&runtimeapi.ContainerStatsFilter{Id: b.containers[0][:20]}, first},
		{&runtimeapi.ContainerStatsFilter{PodSandboxId: b.pods[0]}, first},
		{&runtimeapi.ContainerStatsFilter{LabelSelector: map[string]string{"container": "0"}}, first},
		{&runtimeapi.ContainerStatsFilter{PodSandboxId: b.pods[1], LabelSelector: map[string]string{"container": "0"}}, "[]"},
		{&runtimeapi.ContainerStatsFilter{Id: "0123"}, "[]"},
	} {
		if got := fmt.Sprint(b.list(t, c.filter)); got != c.want {
			t.Errorf("%v: %v, want %v", c.filter, got, c.want)
		}
	}
}

func TestFilesystems(t *testing.T) {
	b := setUp(t)
	ctx := t.Context()
	// An exec comes back after the file is there, and the first measurement after that.
	_, err := b.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: b.containers[0], Timeout: 20,
		Cmd: []string{"sh", "-c", "for i in 1 2 3 4 5; do dd if=/dev/zero of=/more$i bs=64k count=1; done"}})
	if err != nil {
		t.Fatal(err)
	}
	layer := b.stats(t, b.containers[0]).GetWritableLayer()
	if n := layer.GetUsedBytes().GetValue(); n < 5*64<<10 {
		t.Errorf("used: %d bytes", n)
	}
	if n := layer.GetInodesUsed().GetValue(); n < 6 {
		t.Errorf("used: %d inodes", n)
	}
	info, err := b.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(info.GetImageFilesystems()) != 1 || len(info.GetContainerFilesystems()) != 1 {
		t.Fatalf("%v", info)
	}
	images, containers := info.GetImageFilesystems()[0], info.GetContainerFilesystems()[0]
	for name, fs := range map[string]*runtimeapi.FilesystemUsage{"images": images, "containers": containers, "layer": layer} {
		if fs.GetTimestamp() <= 0 || fs.GetFsId().GetMountpoint() != images.GetFsId().GetMountpoint() {
			t.Errorf("%s: %v", name, fs)
		}
	}
	if _, err := os.Stat(images.GetFsId().GetMountpoint()); err != nil {
		t.Error(err)
	}
	if images.GetUsedBytes().GetValue() == 0 || containers.GetUsedBytes().GetValue() < layer.GetUsedBytes().GetValue() {
		t.Errorf("%v", info)
	}
}
