package badinput

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/leaks"
	"github.com/berthd/berth/test/node"
)

const busybox = "docker.io/library/busybox:latest"

// A suite is a world with one berth node.
type suite struct {
	*node.Client
	world *node.World
	node  *node.Node
	logs  string
}

// open starts a fresh daemon. The test's end removes it.
func open(t *testing.T) *suite { return openOn(t, "") }

// openOn does, with the daemon's root on a file system of that size, unless it
// is empty.
func openOn(t *testing.T, size string) *suite {
	t.Helper()
	return openWith(t, size, "")
}

// openWith is openOn with settings of its own.
func openWith(t *testing.T, size, settings string) *suite {
	t.Helper()
	if testing.Short() {
		t.Skip("long, and needs root")
	}
	ctx := t.Context()
	w, err := node.NewWorld(ctx)
	if err != nil {
		t.Fatal(err)
	}
	clean := context.WithoutCancel(ctx)
	t.Cleanup(func() {
		if err := w.Close(clean); err != nil {
			t.Error(err)
		}
	})
	n, err := w.Berth("berth", settings)
	if err != nil {
		t.Fatal(err)
	}
	if size != "" {
		mountSmall(t, n.Root, size)
	}
	t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
		unmount(t, n.Root)
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := n.StartFresh(ctx); err != nil {
		t.Fatal(err)
	}
	s := &suite{world: w, node: n, logs: filepath.Join(w.Dir, "logs")}
	if err := os.MkdirAll(s.logs, 0o755); err != nil {
		t.Fatal(err)
	}
	if s.Client, err = n.Client(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if n.PID() != 0 {
			_ = s.RemoveAll(clean)
		}
		s.Client.Close()
		if t.Failed() {
			t.Logf("end of berthd's log:\n%s", n.Tail(30))
		}
	})
	return s
}

// close removes everything and expects no trace.
func (s *suite) close(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	if err := s.RemoveAll(ctx); err != nil {
		t.Fatal(err)
	}
	left, err := s.node.LeftBehind(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, l := range left {
		t.Error("left by the daemon:", l)
	}
}

// empty expects no pod, no container, no image and no file that was not there.
func (s *suite) empty(t *testing.T, before leaks.Snapshot) {
	t.Helper()
	ctx := t.Context()
	pods, err := s.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil || len(pods.GetItems()) != 0 {
		t.Errorf("pods: %v, %v", pods.GetItems(), err)
	}
	containers, err := s.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil || len(containers.GetContainers()) != 0 {
		t.Errorf("containers: %v, %v", containers.GetContainers(), err)
	}
	s.sameFiles(t, before)
}

// sameFiles expects no file of the daemon that was not there, and no mount.
func (s *suite) sameFiles(t *testing.T, before leaks.Snapshot) {
	t.Helper()
	told := 0
	for _, l := range files(t, s.node.Root, s.node.State).Since(before) {
		ours := strings.Contains(l, "file: ") || strings.Contains(l, "mount: "+s.node.Root) || strings.Contains(l, "mount: "+s.node.State)
		if ours && told < 20 {
			told++
			t.Error("left behind:", l)
		}
	}
}

func versionRequest() *runtimeapi.VersionRequest { return &runtimeapi.VersionRequest{} }
