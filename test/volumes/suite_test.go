package volumes

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/imageservice/registry/registrytest"
	"github.com/berthd/berth/test/node"
)

const (
	busybox = "docker.io/library/busybox:latest"
	host    = "volumes.test" // a registry of the test's own
)

// A suite is a world with one berth node, a registry that tests fill, and one pod.
type suite struct {
	*node.Client
	world    *node.World
	node     *node.Node
	registry *registrytest.Server
	pod      *runtimeapi.PodSandboxConfig
	podID    string
	made     int
}

// open starts a fresh daemon with a pod; extra is added to its settings. The test's
// end removes it and expects no trace.
func open(t *testing.T, extra string) *suite {
	t.Helper()
	if testing.Short() {
		t.Skip("long, and needs root")
	}
	ctx := t.Context()
	clean := context.WithoutCancel(ctx)
	w, err := node.NewWorld(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(clean); err != nil {
			t.Error(err)
		}
	})
	s := &suite{world: w, registry: registrytest.New()}
	t.Cleanup(s.registry.Close)
	s.lead(t)
	if s.node, err = w.Berth("berth", extra); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close(t, clean) })
	if err := s.node.StartFresh(ctx); err != nil {
		t.Fatal(err)
	}
	if s.Client, err = s.node.Client(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(ctx, busybox); err != nil {
		t.Fatal(err)
	}
	logs := filepath.Join(w.Dir, "logs")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		t.Fatal(err)
	}
	s.pod = node.Pod("pod", logs)
	if s.podID, err = s.RunPod(ctx, s.pod); err != nil {
		t.Fatal(err)
	}
	return s
}

// close removes everything and expects no file, process or mount of the daemon's.
func (s *suite) close(t *testing.T, ctx context.Context) {
	t.Helper()
	if t.Failed() {
		t.Logf("end of berthd's log:\n%s", s.node.Tail(30))
	}
	if s.Client != nil {
		if err := s.RemoveAll(ctx); err != nil {
			t.Error(err)
		}
		s.Client.Close()
		left, err := s.node.LeftBehind(ctx)
		if err != nil {
			t.Error(err)
		}
		for _, l := range left {
			t.Error("left by the daemon:", l)
		}
	}
	for _, m := range mountsBelow(t, s.node.State, s.node.Root) {
		t.Error("left mounted:", m)
	}
	if err := s.node.Close(); err != nil {
		t.Error(err)
	}
}

// lead leads host to the test's registry.
func (s *suite) lead(t *testing.T) {
	t.Helper()
	if err := node.Lead(s.world.Certs, host, s.registry.URL); err != nil {
		t.Fatal(err)
	}
}

// pull pulls repo:tag of the test's registry and returns its ID.
func (s *suite) pull(t *testing.T, ref string) string {
	t.Helper()
	id, err := s.Pull(t.Context(), host+"/"+ref)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// container is the configuration of a container of busybox that sleeps.
func (s *suite) container(mounts ...*runtimeapi.Mount) *runtimeapi.ContainerConfig {
	s.made++
	c := node.Container(fmt.Sprintf("c%d", s.made), busybox, "sleep", "1000")
	c.Mounts = mounts
	return c
}

// run runs a container with mounts and returns its ID.
func (s *suite) run(t *testing.T, mounts ...*runtimeapi.Mount) string {
	t.Helper()
	id, err := s.Run(t.Context(), s.podID, s.pod, s.container(mounts...))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// create tries to create a container.
func (s *suite) create(t *testing.T, c *runtimeapi.ContainerConfig) error {
	t.Helper()
	_, err := s.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: s.podID, Config: c, SandboxConfig: s.pod})
	return err
}

// sh runs a line in the container and returns what it wrote, both streams together.
func (s *suite) sh(t *testing.T, id, line string) (out string, code int32) {
	t.Helper()
	resp, err := s.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", line + " 2>&1"}, Timeout: 20})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(resp.GetStdout())), resp.GetExitCode()
}

// expect runs a line in the container and compares what it wrote.
func (s *suite) expect(t *testing.T, id, line, want string) {
	t.Helper()
	if out, code := s.sh(t, id, line); out != want || code != 0 {
		t.Errorf("%s: %q, code %d; want %q", line, out, code, want)
	}
}

func (s *suite) remove(t *testing.T, id string) {
	t.Helper()
	if _, err := s.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Error(err)
	}
}

// mountsBelow lists the mount points below dirs.
func mountsBelow(t *testing.T, dirs ...string) []string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(data)) {
		at := strings.Fields(line)[4]
		for _, dir := range dirs {
			if strings.HasPrefix(at, dir+"/") {
				found = append(found, at)
			}
		}
	}
	return found
}
