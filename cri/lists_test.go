package cri

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec of every server
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// streamed reads a stream to its end.
func streamed[R any](t *testing.T, receive func() (R, error), see func(R)) {
	t.Helper()
	for {
		resp, err := receive()
		if err != nil {
			if err.Error() != "EOF" {
				t.Fatal(err)
			}
			return
		}
		see(resp)
	}
}

// listBoth is a list as a client gets it, and the same as a stream, whose messages are made anew for each
// caller.
func listBoth(t *testing.T, c runtimeapi.RuntimeServiceClient, f *runtimeapi.ContainerFilter) (list, stream []*runtimeapi.Container) {
	t.Helper()
	resp, err := c.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{Filter: f})
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.StreamContainers(t.Context(), &runtimeapi.StreamContainersRequest{Filter: f})
	if err != nil {
		t.Fatal(err)
	}
	streamed(t, s.Recv, func(r *runtimeapi.StreamContainersResponse) { stream = append(stream, r.GetContainers()...) })
	return resp.GetContainers(), stream
}

func podsBoth(t *testing.T, c runtimeapi.RuntimeServiceClient, f *runtimeapi.PodSandboxFilter) (list, stream []*runtimeapi.PodSandbox) {
	t.Helper()
	resp, err := c.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{Filter: f})
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.StreamPodSandboxes(t.Context(), &runtimeapi.StreamPodSandboxesRequest{Filter: f})
	if err != nil {
		t.Fatal(err)
	}
	streamed(t, s.Recv, func(r *runtimeapi.StreamPodSandboxesResponse) { stream = append(stream, r.GetPodSandboxes()...) })
	return resp.GetItems(), stream
}

// TestListsKept: what is kept of lists is what is there, after each change, with every filter.
func TestListsKept(t *testing.T) {
	_, c := easy(t, 4)
	running := &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}
	ready := &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}
	check := func(containers, run, pods, up, odd int) (newest *runtimeapi.Container) {
		t.Helper()
		for _, tt := range []struct {
			f *runtimeapi.ContainerFilter
			n int
		}{{nil, containers}, {&runtimeapi.ContainerFilter{}, containers}, {&runtimeapi.ContainerFilter{State: running}, run},
			{&runtimeapi.ContainerFilter{LabelSelector: map[string]string{"number": "1"}}, odd}, {&runtimeapi.ContainerFilter{PodSandboxId: "none"}, 0}} {
			list, stream := listBoth(t, c, tt.f)
			if len(list) != tt.n || !slices.EqualFunc(list, stream, func(a, b *runtimeapi.Container) bool { return proto.Equal(a, b) }) {
				t.Errorf("containers, %v: %d of %d\n%v\nbut as a stream\n%v", tt.f, len(list), tt.n, list, stream)
			}
			if tt.f == nil && len(list) > 0 {
				newest = list[0]
			}
		}
		for _, tt := range []struct {
			f *runtimeapi.PodSandboxFilter
			n int
		}{{nil, pods}, {&runtimeapi.PodSandboxFilter{}, pods}, {&runtimeapi.PodSandboxFilter{State: ready}, up},
			{&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"number": "1"}}, odd}, {&runtimeapi.PodSandboxFilter{Id: "none"}, 0}} {
			list, stream := podsBoth(t, c, tt.f)
			if len(list) != tt.n || !slices.EqualFunc(list, stream, func(a, b *runtimeapi.PodSandbox) bool { return proto.Equal(a, b) }) {
				t.Errorf("pods, %v: %d of %d\n%v\nbut as a stream\n%v", tt.f, len(list), tt.n, list, stream)
			}
		}
		return newest
	}
	check(4, 4, 4, 4, 2)
	pod, id := addEasy(t, c, filepath.Join(t.TempDir(), "logs"), 4)
	newest := check(5, 5, 5, 5, 2)
	if newest.GetId() != id || newest.GetPodSandboxId() != pod || newest.GetMetadata().GetName() != "web" || newest.GetLabels()["app"] != "web" || newest.GetImageRef() == "" {
		t.Errorf("the newest: %v", newest)
	}
	if _, err := c.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	check(5, 4, 5, 4, 2)
	if _, err := c.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	check(4, 4, 4, 4, 2)
}

// served is a call of the daemon's part alone: from the request's message to the answer's bytes.
func served(t testing.TB, s *Server, method string, req proto.Message) func() error {
	t.Helper()
	codec := encoding.GetCodecV2("proto")
	for _, m := range runtimeapi.RuntimeService_ServiceDesc.Methods {
		if m.MethodName != method {
			continue
		}
		return func() error {
			resp, err := m.Handler(s.runtime, t.Context(), func(to any) error {
				proto.Merge(to.(proto.Message), req)
				return nil
			}, s.intercept)
			if err != nil {
				return err
			}
			data, err := codec.Marshal(resp)
			data.Free()
			return err
		}
	}
	t.Fatalf("no method %s", method)
	return nil
}

// BenchmarkServed is what calls of a node at rest cost the daemon, without the connection. Version is what
// any call costs. The kernel's counters and interfaces are not in it.
func BenchmarkServed(b *testing.B) {
	for _, n := range []int{60, 200} {
		s, c := easy(b, n)
		all, err := c.ListContainers(b.Context(), &runtimeapi.ListContainersRequest{})
		if err != nil {
			b.Fatal(err)
		}
		id, pod := all.GetContainers()[0].GetId(), all.GetContainers()[0].GetPodSandboxId()
		running := &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}
		for _, call := range []struct {
			name, method string
			req          proto.Message
		}{
			{"Version", "Version", &runtimeapi.VersionRequest{}},
			{"ListPodSandbox", "ListPodSandbox", &runtimeapi.ListPodSandboxRequest{}},
			{"ListContainers", "ListContainers", &runtimeapi.ListContainersRequest{}},
			{"ListContainers_running", "ListContainers", &runtimeapi.ListContainersRequest{Filter: running}},
			{"ContainerStatus", "ContainerStatus", &runtimeapi.ContainerStatusRequest{ContainerId: id}},
			{"PodSandboxStatus", "PodSandboxStatus", &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod}},
			{"ListContainerStats", "ListContainerStats", &runtimeapi.ListContainerStatsRequest{}},
			{"ListPodSandboxStats", "ListPodSandboxStats", &runtimeapi.ListPodSandboxStatsRequest{}},
		} {
			do := served(b, s, call.method, call.req)
			b.Run(fmt.Sprintf("%s/%d", call.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := do(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkDecoded is what a caller takes to read the list of 60 containers: the most of such a
// call's time, and the same whoever serves it.
func BenchmarkDecoded(b *testing.B) {
	_, c := easy(b, 60)
	all, err := c.ListContainers(b.Context(), &runtimeapi.ListContainersRequest{})
	if err != nil {
		b.Fatal(err)
	}
	data, err := proto.Marshal(all)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(len(data)), "bytes")
	for b.Loop() {
		if err := proto.Unmarshal(data, &runtimeapi.ListContainersResponse{}); err != nil {
			b.Fatal(err)
		}
	}
}
