package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func sandboxOf(id string, bytes int) *runtimeapi.PodSandbox {
	return &runtimeapi.PodSandbox{Id: id, Annotations: map[string]string{"a": strings.Repeat("x", bytes)}}
}

// TestSendChunks cuts lists by their encoded bytes.
func TestSendChunks(t *testing.T) {
	tests := []struct {
		name  string
		sizes []int
		want  []int // items of each message
	}{
		{"nothing is sent for no items", nil, nil},
		{"small items share a message", []int{10, 10, 10}, []int{3}},
		{"half of what fits, three times", []int{1 << 20, 1 << 20, 1 << 20}, []int{1, 1, 1}},
		{"just under half, three times", []int{1000 << 10, 1000 << 10, 1000 << 10}, []int{2, 1}},
		{"an item larger than a part goes alone", []int{10, 8 << 20, 10, 10}, []int{1, 1, 2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var items []*runtimeapi.PodSandbox
			for i, n := range tt.sizes {
				items = append(items, sandboxOf(fmt.Sprint(i), n))
			}
			var got []int
			seen := 0
			err := sendChunks(items, func(part []*runtimeapi.PodSandbox) error {
				got = append(got, len(part))
				if size := proto.Size(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: part}); len(part) > 1 && size > chunkBytes {
					t.Errorf("a message of %d items has %d bytes", len(part), size)
				}
				for _, item := range part {
					if item.Id != fmt.Sprint(seen) {
						t.Errorf("item %s comes as number %d", item.Id, seen)
					}
					seen++
				}
				return nil
			})
			if err != nil || fmt.Sprint(got) != fmt.Sprint(tt.want) || seen != len(items) {
				t.Errorf("messages of %v items (%d in all), error %v; want %v", got, seen, err, tt.want)
			}
		})
	}
}

// TestSendChunksRefuses names an item that no message can carry, and sends none.
func TestSendChunksRefuses(t *testing.T) {
	items := []*runtimeapi.PodSandbox{sandboxOf("small", 1), sandboxOf("huge", maxMessage)}
	err := sendChunks(items, func([]*runtimeapi.PodSandbox) error { t.Error("something was sent"); return nil })
	if !errors.Is(err, errTooLarge) || !strings.Contains(err.Error(), "huge") {
		t.Errorf("error is %v", err)
	}
}

// manyPods answers lists with pods of one size, over a real connection.
type manyPods struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	list []*runtimeapi.PodSandbox
}

func (m *manyPods) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{Items: m.list}, nil
}

func (m *manyPods) StreamPodSandboxes(_ *runtimeapi.StreamPodSandboxesRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	return sendChunks(m.list, func(part []*runtimeapi.PodSandbox) error {
		return stream.Send(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: part})
	})
}

// serveFake serves m behind the interceptors of a server.
func serveFake(t *testing.T, s *Server, m runtimeapi.RuntimeServiceServer) runtimeapi.RuntimeServiceClient {
	t.Helper()
	server := grpc.NewServer(grpc.UnaryInterceptor(s.intercept), grpc.StreamInterceptor(s.interceptStream), grpc.MaxSendMsgSize(maxMessage))
	runtimeapi.RegisterRuntimeServiceServer(server, m)
	listener := bufconn.Listen(1 << 20)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:fake", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return runtimeapi.NewRuntimeServiceClient(conn)
}

// drainPods counts what a stream of pods brings.
func drainPods(t *testing.T, c runtimeapi.RuntimeServiceClient) (int, error) {
	t.Helper()
	stream, err := c.StreamPodSandboxes(t.Context(), &runtimeapi.StreamPodSandboxesRequest{})
	if err != nil {
		return 0, err
	}
	n := 0
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		n += len(resp.GetPodSandboxes())
	}
}

// TestLargeList refuses a unary list that no message can carry, says what to do,
// and gives the whole of it as a stream.
func TestLargeList(t *testing.T) {
	s := &Server{ready: make(chan struct{})} // nothing waits for it
	m := &manyPods{}
	c := serveFake(t, s, m)

	if _, err := drainPods(t, c); status.Code(err) != codes.Unavailable {
		t.Errorf("a stream before the daemon is ready: %v", err)
	}
	close(s.ready)
	if n, err := drainPods(t, c); n != 0 || err != nil {
		t.Errorf("a stream of nothing: %d items, %v", n, err)
	}
	for i := range 300 {
		m.list = append(m.list, sandboxOf(fmt.Sprint(i), 100<<10))
	}
	_, err := c.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(status.Convert(err).Message(), "StreamPodSandboxes") {
		t.Errorf("a list of 30 MB: %v", err)
	}
	if n, err := drainPods(t, c); n != len(m.list) || err != nil {
		t.Errorf("the stream of it: %d items, %v", n, err)
	}
	m.list = append(m.list, sandboxOf("monster", maxMessage))
	if n, err := drainPods(t, c); n != 0 || status.Code(err) != codes.ResourceExhausted {
		t.Errorf("with an item that is too large: %d items, %v", n, err)
	}
}
