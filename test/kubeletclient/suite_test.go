package kubeletclient

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	cri "k8s.io/cri-client/pkg"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/test/node"
)

const busybox = "docker.io/library/busybox:latest"

// timeout is kubelet's own for a CRI call, when nobody sets another.
const timeout = 2 * time.Minute

// A suite is a node and kubelet's two clients.
type suite struct {
	*node.Fresh
	runtime internalapi.RuntimeService
	image   internalapi.ImageManagerService
}

// open starts a daemon and connects as kubelet does.
func open(t *testing.T) (*suite, context.Context) {
	t.Helper()
	s := &suite{Fresh: node.Open(t, "", nil)}
	ctx := quiet(t.Context())
	s.runtime, s.image = s.connect(t, ctx, false)
	return s, ctx
}

// quiet keeps the client's log of errors, which tests provoke, to itself.
func quiet(ctx context.Context) context.Context { return klog.NewContext(ctx, klog.Logger{}) }

// connect builds the clients; streams says whether lists come as streams, which
// is kubelet's feature gate CRIListStreaming.
func (s *suite) connect(t *testing.T, ctx context.Context, streams bool) (internalapi.RuntimeService, internalapi.ImageManagerService) {
	t.Helper()
	endpoint := "unix://" + s.Node.Socket
	r, err := cri.NewRemoteRuntimeServiceBuilder().WithEndpoint(endpoint).WithConnectionTimeout(timeout).WithUseStreaming(streams).Build(ctx)
	if err != nil {
		t.Fatal(err)
	}
	i, err := cri.NewRemoteImageServiceBuilder().WithEndpoint(endpoint).WithConnectionTimeout(timeout).WithUseStreaming(streams).Build(ctx)
	if err != nil {
		t.Fatal(err)
	}
	end := context.WithoutCancel(ctx)
	t.Cleanup(func() {
		_ = r.Close(end)
		_ = i.Close(end)
	})
	return r, i
}

// pull pulls busybox.
func (s *suite) pull(t *testing.T, ctx context.Context) string {
	t.Helper()
	id, err := s.image.PullImage(ctx, &runtimeapi.ImageSpec{Image: busybox}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// start runs a container of a shell script in a pod of its own name and returns
// both IDs and the log's path.
func (s *suite) start(t *testing.T, ctx context.Context, name, script string) (podID, id, log string) {
	t.Helper()
	s.pull(t, ctx)
	pod := node.Pod(name, s.Logs)
	podID, err := s.runtime.RunPodSandbox(ctx, pod, "")
	if err != nil {
		t.Fatal(err)
	}
	id, err = s.runtime.CreateContainer(ctx, podID, node.Container(name, busybox, "sh", "-c", script), pod)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.runtime.StartContainer(ctx, id); err != nil {
		t.Fatal(err)
	}
	return podID, id, filepath.Join(s.Logs, name+".log")
}

// release makes the file that a script waits for. It waits for a daemon that
// was away, which kubelet's client does not.
func (s *suite) release(t *testing.T, ctx context.Context, id string) {
	t.Helper()
	req := &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"touch", "/release"}, Timeout: 60}
	if _, err := s.ExecSync(ctx, req, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
}

// wait is a script's line that waits for release.
const wait = "until [ -e /release ]; do sleep 0.02; done\n"
