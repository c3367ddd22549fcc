package kubeletclient

import (
	"context"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestStatsAndEvents reads stats, metrics and events as kubelet does where its
// gates PodAndContainerStatsFromCRI and EventedPLEG are on.
func TestStatsAndEvents(t *testing.T) {
	s, ctx := open(t)
	events := make(chan *runtimeapi.ContainerEventResponse, 100)
	connected := make(chan bool)
	go func() {
		_ = s.runtime.GetContainerEvents(ctx, events, func(runtimeapi.RuntimeService_GetContainerEventsClient) { close(connected) })
	}()
	select {
	case <-connected:
	case <-time.After(time.Minute):
		t.Fatal("no stream of events")
	}
	podID, id, _ := s.start(t, ctx, "stats", "sleep 1000")
	want := map[runtimeapi.ContainerEventType]bool{
		runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT: true, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT: true,
	}
	s.expectEvents(t, events, podID, id, want)
	s.stats(t, podID, id)
	if err := s.runtime.StopContainer(ctx, id, 0); err != nil {
		t.Fatal(err)
	}
	s.expectEvents(t, events, podID, id, map[runtimeapi.ContainerEventType]bool{runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT: true})
	s.Done(t)
}

// expectEvents waits for the container's events; each carries its pod's status.
func (s *suite) expectEvents(t *testing.T, events <-chan *runtimeapi.ContainerEventResponse, podID, id string, want map[runtimeapi.ContainerEventType]bool) {
	t.Helper()
	for end := time.After(time.Minute); len(want) > 0; {
		select {
		case e := <-events:
			if e.GetPodSandboxStatus().GetId() != podID || e.GetCreatedAt() == 0 {
				t.Errorf("an event without its pod: %v", e)
			}
			if e.GetContainerId() == id {
				delete(want, e.GetContainerEventType())
			}
		case <-end:
			t.Fatalf("no event: %v", want)
		}
	}
}

// stats expects the container's numbers in every form that kubelet asks for.
func (s *suite) stats(t *testing.T, podID, id string) {
	t.Helper()
	ctx := quiet(t.Context())
	one, err := s.runtime.ContainerStats(ctx, id)
	if err != nil || one.GetAttributes().GetId() != id || one.GetCpu().GetTimestamp() == 0 || one.GetMemory().GetWorkingSetBytes() == nil {
		t.Errorf("container stats %v, %v", one, err)
	}
	streamed, _ := s.connect(t, ctx, true)
	for _, r := range []interface {
		ListContainerStats(context.Context, *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error)
		ListPodSandboxStats(context.Context, *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error)
		ListPodSandboxMetrics(context.Context) ([]*runtimeapi.PodSandboxMetrics, error)
	}{s.runtime, streamed} {
		if list, err := r.ListContainerStats(ctx, nil); err != nil || len(list) != 1 || list[0].GetAttributes().GetId() != id {
			t.Errorf("list of container stats %v, %v", list, err)
		}
		if list, err := r.ListPodSandboxStats(ctx, nil); err != nil || len(list) != 1 || list[0].GetAttributes().GetId() != podID {
			t.Errorf("list of pod stats %v, %v", list, err)
		}
		if list, err := r.ListPodSandboxMetrics(ctx); err != nil || len(list) != 1 || list[0].GetPodSandboxId() != podID {
			t.Errorf("metrics %v, %v", list, err)
		}
	}
	pod, err := s.runtime.PodSandboxStats(ctx, podID)
	if err != nil || pod.GetAttributes().GetId() != podID || len(pod.GetLinux().GetContainers()) != 1 {
		t.Errorf("pod stats %v, %v", pod, err)
	}
	descriptors, err := s.runtime.ListMetricDescriptors(ctx)
	if err != nil || len(descriptors) == 0 {
		t.Errorf("metric descriptors %v, %v", descriptors, err)
	}
}
