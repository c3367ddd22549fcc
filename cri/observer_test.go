package cri

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/sandbox"
)

// A diary is what an observer is told.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) add(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *diary) CallBegan(method string) { d.add("%s", method) }
func (d *diary) CallEnded(method string, code codes.Code, took time.Duration) {
	d.add("%s: %v, %v", method, code, took > 0)
}

// lost has no pod.
type lost struct{ manyPods }

func (*lost) StopPodSandbox(context.Context, *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	return nil, fmt.Errorf("pod: %w", sandbox.ErrNotFound)
}

// TestObserver: calls and streams are told of when they begin and when they end, with the code
// that the client gets; what the gate keeps out is not.
func TestObserver(t *testing.T) {
	d := &diary{}
	s := New(Options{Observer: d})
	s.hold = 0
	c := serveFake(t, s, &lost{})
	_, _ = c.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{})
	close(s.ready)
	_, _ = c.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{})
	if _, err := drainPods(t, c); err != nil {
		t.Fatal(err)
	}
	const stop, stream = "/runtime.v1.RuntimeService/StopPodSandbox", "/runtime.v1.RuntimeService/StreamPodSandboxes"
	d.mu.Lock()
	defer d.mu.Unlock()
	if want := []string{stop, stop + ": NotFound, true", stream, stream + ": OK, true"}; !slices.Equal(d.lines, want) {
		t.Errorf("%q, want %q", d.lines, want)
	}
}
