package cri

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/netns"
	"github.com/berthd/berth/sandbox"
	"github.com/berthd/berth/shim"
	"github.com/berthd/berth/snapshot"
)

var errNoNode = errors.New("there is no node behind this server")

// A server without a node: what asks for one fails, so that no pod is ever made.
type (
	noNamespaces struct{ sandbox.Namespaces }
	noNetwork    struct{ sandbox.Network }
	noRoots      struct{ sandbox.Roots }
	noTasks      struct{ sandbox.Tasks }
	noProcesses  struct{ sandbox.Processes }
)

func (noNamespaces) Create(context.Context, string, netns.Kinds) (netns.Paths, error) {
	return netns.Paths{}, errNoNode
}
func (noNamespaces) Remove(context.Context, string) error        { return nil }
func (noNamespaces) List() ([]string, error)                     { return nil, nil }
func (noNetwork) Conf() ([]byte, error)                          { return nil, errNoNode }
func (noNetwork) Detach(context.Context, netns.Attachment) error { return nil }
func (noNetwork) GC(context.Context, []netns.Attachment) error   { return nil }
func (noRoots) CheckIDMap(context.Context, snapshot.IDMap) error { return errNoNode }
func (noRoots) Remove(context.Context, string) error             { return nil }
func (noRoots) ListRoots(context.Context) ([]string, error)      { return nil, nil }
func (noTasks) Expect()                                          {}
func (noTasks) Delete(context.Context, string) error             { return nil }
func (noTasks) Kill(context.Context, string, int, bool) error    { return nil }
func (noProcesses) Tasks(context.Context) ([]shim.Task, error)   { return nil, nil }
func (noProcesses) State(context.Context, string) (shim.TaskState, error) {
	return shim.TaskState{}, errNoNode
}

// bare is a server with everything but a node, in dir.
func bare(f testing.TB, dir string) (*Server, *sandbox.Node) {
	f.Helper()
	return bareWith(f, dir, func(*sandbox.Options) {})
}

// bareWith is bare with options that set has changed.
func bareWith(f testing.TB, dir string, set func(*sandbox.Options)) (*Server, *sandbox.Node) {
	f.Helper()
	ctx := f.Context()
	certs := filepath.Join(dir, "certs.d", "_default")
	if err := os.MkdirAll(certs, 0o700); err != nil {
		f.Fatal(err)
	}
	nowhere := "server = \"http://127.0.0.1:1\"\n" // the discard of port 1: nobody answers
	if err := os.WriteFile(filepath.Join(certs, "hosts.toml"), []byte(nowhere), 0o600); err != nil {
		f.Fatal(err)
	}
	layers, err := snapshot.Open(ctx, "overlay", filepath.Join(dir, "snapshots"))
	if err != nil {
		f.Fatal(err)
	}
	images, err := imageservice.Open(ctx, imageservice.Options{Root: filepath.Join(dir, "images"), CertsDir: filepath.Dir(certs), Layers: layers})
	if err != nil {
		f.Fatal(err)
	}
	o := sandbox.Options{
		Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Handlers: map[string]sandbox.Handler{"other": {}}, PauseBinary: "/bin/true",
		Namespaces: noNamespaces{}, Network: noNetwork{}, Roots: noRoots{}, Images: images, Tasks: noTasks{}, Processes: noProcesses{},
	}
	set(&o)
	n, err := sandbox.Open(ctx, o)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(n.Close)
	s := New(Options{
		Version: "test", Handlers: []string{"other"}, NetworkReady: func() error { return nil }, NetworkSkipped: func() []error { return nil },
		Config: func() (string, error) { return "{}", nil },
	})
	s.Attach(n, images)
	return s, n
}

// A sink is a stream whose answers nobody reads.
type sink struct {
	grpc.ServerStream
	ctx     context.Context
	receive func(any) error
}

func (s sink) Context() context.Context   { return s.ctx }
func (s sink) RecvMsg(m any) error        { return s.receive(m) }
func (sink) SendMsg(any) error            { return nil }
func (sink) SendHeader(metadata.MD) error { return nil }

// A target is one RPC of a server.
type target struct {
	name string
	call func(ctx context.Context, decode func(any) error) error
}

func targets(s *Server) []target {
	var out []target
	add := func(desc grpc.ServiceDesc, srv any) {
		for _, m := range desc.Methods {
			out = append(out, target{m.MethodName, func(ctx context.Context, decode func(any) error) error {
				_, err := m.Handler(srv, ctx, decode, s.intercept)
				return err
			}})
		}
		for _, m := range desc.Streams {
			out = append(out, target{m.StreamName, func(ctx context.Context, decode func(any) error) error {
				info := &grpc.StreamServerInfo{FullMethod: m.StreamName, IsServerStream: true}
				return s.interceptStream(srv, sink{ctx: ctx, receive: decode}, info, m.Handler)
			}})
		}
	}
	add(runtimeapi.RuntimeService_ServiceDesc, s.runtime)
	add(runtimeapi.ImageService_ServiceDesc, s.images)
	return out
}

// FuzzRequests sends whatever bytes are a message to every RPC: it never panics,
// it answers with a code and a text, soon after its
// caller's time is over, and nothing is made.
func FuzzRequests(f *testing.F) {
	dir := f.TempDir()
	s, n := bare(f, dir)
	all := targets(s)
	if len(all) != 43 {
		f.Fatalf("%d RPCs", len(all))
	}
	for i := range all {
		f.Add(byte(i), []byte{})
		for _, m := range []proto.Message{
			&runtimeapi.RunPodSandboxRequest{Config: goodPod()}, &runtimeapi.CreateContainerRequest{PodSandboxId: "a", Config: goodContainer(), SandboxConfig: goodPod()},
			&runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "a/b:c"}, Auth: &runtimeapi.AuthConfig{Auth: "="}},
			&runtimeapi.ExecSyncRequest{ContainerId: "a", Cmd: []string{"b"}, Timeout: 1},
		} {
			data, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(byte(i), data)
		}
	}
	f.Fuzz(func(t *testing.T, which byte, data []byte) {
		rpc := all[int(which)%len(all)]
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		start := time.Now()
		err := rpc.call(ctx, func(m any) error {
			if err := proto.Unmarshal(data, m.(proto.Message)); err != nil {
				return status.Error(codes.Internal, err.Error())
			}
			if r, ok := m.(*runtimeapi.RunPodSandboxRequest); ok && filepath.IsAbs(r.GetConfig().GetLogDirectory()) {
				r.Config.LogDirectory = dir + "/logs" + strings.ReplaceAll(r.Config.LogDirectory, "..", "") // it is made
			}
			return nil
		})
		if err != nil && (status.Code(toStatus(err)) == codes.OK || status.Convert(toStatus(err)).Message() == "") {
			t.Errorf("%s: %v", rpc.name, err)
		}
		if took := time.Since(start); took > 10*time.Second { // the caller waits for 20 ms
			t.Errorf("%s took %v", rpc.name, took)
		}
		if left := len(n.Pods.List()) + len(n.Containers.List()); left != 0 {
			t.Errorf("%s left %d pods and containers", rpc.name, left)
		}
	})
}
