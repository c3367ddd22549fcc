package stats

import (
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

func (b *bench) pod(t *testing.T, id string) *runtimeapi.PodSandboxStats {
	t.Helper()
	resp, err := b.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: id})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetStats()
}

func TestPods(t *testing.T) {
	b := setUp(t)
	ctx := t.Context()
	for i, id := range b.pods {
		s := b.pod(t, id)
		if a := s.GetAttributes(); a.GetId() != id || a.GetMetadata().GetName() != fmt.Sprint("pod", i) || a.GetLabels()["pod"] != fmt.Sprint(i) {
			t.Errorf("attributes: %v", a)
		}
		checkPod(t, s.GetLinux())
		if c := s.GetLinux().GetContainers(); len(c) != 1 || c[0].GetAttributes().GetId() != b.containers[i] {
			t.Errorf("containers: %v", c)
		} else {
			checkContainer(t, c[0])
		}
		until(t, "nano cores", func() bool { return b.pod(t, id).GetLinux().GetCpu().GetUsageNanoCores().GetValue() > 0 })
	}
	// Pressure is a cgroup's own: only a pod that has one can tell.
	if own := b.pod(t, b.pods[0]).GetLinux(); node.PressureCounted() && (own.GetIo().GetPsi() == nil || own.GetCpu().GetPsi() == nil) {
		t.Errorf("pod with a cgroup: %v", own)
	}
	b.checkPodList(t)

	// The counters of a pod do not go back with its containers.
	for i, id := range b.pods {
		before := b.pod(t, id).GetLinux().GetCpu().GetUsageCoreNanoSeconds().GetValue()
		if _, err := b.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: b.containers[i]}); err != nil {
			t.Fatal(err)
		}
		if after := b.pod(t, id).GetLinux(); after.GetCpu().GetUsageCoreNanoSeconds().GetValue() < before || len(after.GetContainers()) != 0 {
			t.Errorf("pod %d: %d, then %v", i, before, after)
		}
	}
	for id, want := range map[string]codes.Code{"": codes.InvalidArgument, "0123": codes.NotFound} {
		if _, err := b.PodSandboxStats(ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: id}); status.Code(err) != want {
			t.Errorf("ID %q: %v, want %v", id, err, want)
		}
	}
	if _, err := b.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: b.pods[1]}); err != nil {
		t.Fatal(err)
	}
	if s := b.pod(t, b.pods[1]); s.GetAttributes().GetId() != b.pods[1] || s.GetLinux().GetNetwork() != nil {
		t.Errorf("stopped: %v", s)
	}
	if ids := b.podList(t, nil); len(ids) != 1 || ids[0] != b.pods[0] {
		t.Errorf("after a stop: %v", ids)
	}
}

func checkPod(t *testing.T, s *runtimeapi.LinuxPodSandboxStats) {
	t.Helper()
	if s.GetCpu().GetTimestamp() <= 0 || s.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 {
		t.Errorf("cpu: %v", s.GetCpu())
	}
	if m := s.GetMemory(); m.GetTimestamp() <= 0 || m.GetUsageBytes().GetValue() == 0 || m.GetAvailableBytes() != nil {
		t.Errorf("memory: %v", m)
	}
	if p := s.GetProcess(); p.GetTimestamp() <= 0 || p.GetProcessCount().GetValue() != 1 {
		t.Errorf("processes: %v", p)
	}
	n := s.GetNetwork()
	if n.GetTimestamp() <= 0 || n.GetDefaultInterface().GetName() != "eth0" || len(n.GetInterfaces()) != 0 ||
		n.GetDefaultInterface().GetTxBytes().GetValue() == 0 || n.GetDefaultInterface().GetRxErrors() == nil {
		t.Errorf("network: %v", n)
	}
}

func (b *bench) podList(t *testing.T, f *runtimeapi.PodSandboxStatsFilter) (ids []string) {
	t.Helper()
	resp, err := b.ListPodSandboxStats(t.Context(), &runtimeapi.ListPodSandboxStatsRequest{Filter: f})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := b.StreamPodSandboxStats(t.Context(), &runtimeapi.StreamPodSandboxStatsRequest{Filter: f})
	if err != nil {
		t.Fatal(err)
	}
	var streamed []string
	for {
		part, err := stream.Recv()
		if err != nil {
			break
		}
		for _, s := range part.GetPodSandboxStats() {
			streamed = append(streamed, s.GetAttributes().GetId())
		}
	}
	for _, s := range resp.GetStats() {
		ids = append(ids, s.GetAttributes().GetId())
	}
	if fmt.Sprint(ids) != fmt.Sprint(streamed) {
		t.Errorf("listed %v, streamed %v", ids, streamed)
	}
	return ids
}

func (b *bench) checkPodList(t *testing.T) {
	t.Helper()
	first := fmt.Sprint([]string{b.pods[0]})
	for _, c := range []struct {
		filter *runtimeapi.PodSandboxStatsFilter
		want   string
	}{
		{nil, fmt.Sprint([]string{b.pods[1], b.pods[0]})}, // newest first
		{&runtimeapi.PodSandboxStatsFilter{Id: b.pods[0]}, first},
		{&runtimeapi.PodSandboxStatsFilter{LabelSelector: map[string]string{"pod": "0"}}, first},
		{&runtimeapi.PodSandboxStatsFilter{Id: b.pods[1], LabelSelector: map[string]string{"pod": "0"}}, "[]"},
	} {
		if got := fmt.Sprint(b.podList(t, c.filter)); got != c.want {
			t.Errorf("%v: %v, want %v", c.filter, got, c.want)
		}
	}
}

// The host's interfaces are not a pod's.
func TestHostNetwork(t *testing.T) {
	f := node.Running(t, "", nil)
	pod := node.Pod("host", f.Logs)
	pod.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	id, err := f.RunPod(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := f.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: id})
	if err != nil {
		t.Fatal(err)
	}
	if s := resp.GetStats().GetLinux(); s.GetNetwork() != nil || s.GetCpu().GetTimestamp() <= 0 {
		t.Errorf("%v", s)
	}
}
