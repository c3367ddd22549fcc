package cri

import (
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/sandbox"
)

// events answers those who want to be told of what happens.
type events struct {
	events *sandbox.Events
}

// GetContainerEvents implements the RPC. Headers are sent as soon as no event can
// be missed any more: who lists after that, and then reads, knows everything.
// A pod is announced too, with its own ID as the container's. The stream ends with
// ResourceExhausted when the reader is too slow, and with Unavailable when the
// daemon stops; events are not kept for the next call.
func (s events) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	sub := s.events.Subscribe()
	defer sub.Close()
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() { sent <- sendEvents(sub, stream) }()
	select {
	case err := <-sent:
		return err
	case <-sub.Ended(): // a send may wait for a reader who does not read: the end of this call ends it
		_, err := sub.Next(stream.Context())
		return err
	}
}

// sendEvents sends what sub brings until that ends.
func sendEvents(sub *sandbox.Subscription, stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	for {
		ev, err := sub.Next(stream.Context())
		if err != nil {
			return err
		}
		resp := eventResponse(ev)
		if err := checkSize("GetContainerEvents", resp); err != nil {
			return fmt.Errorf("pod %s: %w", ev.Pod.ID, err)
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}

func eventResponse(ev *sandbox.Event) *runtimeapi.ContainerEventResponse {
	return &runtimeapi.ContainerEventResponse{
		ContainerId:        ev.ID,
		ContainerEventType: eventType(ev.Type),
		CreatedAt:          ev.At,
		PodSandboxStatus:   podStatus(ev.Pod),
		ContainersStatuses: containerStatuses(ev.Snapshot),
	}
}

func eventType(t sandbox.EventType) runtimeapi.ContainerEventType {
	switch t {
	case sandbox.EventCreated:
		return runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT
	case sandbox.EventStarted:
		return runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT
	case sandbox.EventStopped:
		return runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT
	default:
		return runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT
	}
}

// containerStatuses are those of a pod, oldest first.
func containerStatuses(s sandbox.Snapshot) []*runtimeapi.ContainerStatus {
	list := make([]*runtimeapi.ContainerStatus, 0, len(s.Containers))
	for i := range s.Containers {
		list = append(list, containerStatus(&s.Containers[i]))
	}
	return list
}
