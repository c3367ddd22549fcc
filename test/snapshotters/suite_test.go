package snapshotters

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/imageservice/registry/registrytest"
	"github.com/berthd/berth/snapshot/proxy/proxytest"
	"github.com/berthd/berth/test/node"
)

const (
	busybox = "docker.io/library/busybox:latest"
	host    = "snapshotters.test" // a registry of the test's own
)

// A suite is a node with busybox, a registry that tests fill, and one pod.
type suite struct {
	*node.Fresh
	registry *registrytest.Server
	pod      *runtimeapi.PodSandboxConfig
	podID    string
	made     int
}

// open starts a fresh daemon with a pod.
func open(t *testing.T, settings string) *suite {
	t.Helper()
	s := &suite{registry: registrytest.New()}
	t.Cleanup(s.registry.Close)
	s.open(t, settings, func(*node.World) {})
	return s
}

// open starts the daemon, after before, and the pod.
func (s *suite) open(t *testing.T, settings string, before func(*node.World)) {
	t.Helper()
	s.Fresh = node.Open(t, settings, func(w *node.World) {
		before(w)
		dir := filepath.Join(w.Certs, host)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("server = %q\n", s.registry.URL)
		if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	})
	s.pull(t, busybox)
	var err error
	s.pod = node.Pod("pod", s.Logs)
	if s.podID, err = s.RunPod(t.Context(), s.pod); err != nil {
		t.Fatal(err)
	}
}

// proxied starts a proxy, and a daemon that uses it.
func proxied(t *testing.T) (*suite, *proxytest.Proxy) {
	t.Helper()
	dir, err := os.MkdirTemp("", "berth-proxy-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	p := proxytest.New(dir)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return open(t, fmt.Sprintf("[snapshot]\ndriver = \"lazy\"\n[proxy_plugins.lazy]\naddress = %q\n", p.Address())), p
}

func (s *suite) pull(t *testing.T, image string) {
	t.Helper()
	if _, err := s.Pull(t.Context(), image); err != nil {
		t.Fatal(err)
	}
}

// container is the configuration of a container of an image that sleeps.
func (s *suite) container(image string, mounts ...*runtimeapi.Mount) *runtimeapi.ContainerConfig {
	s.made++
	c := node.Container(fmt.Sprintf("c%d", s.made), image, "sleep", "1000")
	c.Mounts = mounts
	return c
}

// run runs such a container and returns its ID.
func (s *suite) run(t *testing.T, image string, mounts ...*runtimeapi.Mount) string {
	t.Helper()
	id, err := s.Run(t.Context(), s.podID, s.pod, s.container(image, mounts...))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// expect runs a line in the container and compares what it wrote.
func (s *suite) expect(t *testing.T, id, line, want string) {
	t.Helper()
	resp, err := s.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", line + " 2>&1"}, Timeout: 20})
	if err != nil {
		t.Fatal(err)
	}
	if out := strings.TrimSpace(string(resp.GetStdout())); out != want || resp.GetExitCode() != 0 {
		t.Errorf("%s: %q, code %d; want %q", line, out, resp.GetExitCode(), want)
	}
}

// unavailable expects that no container can be made, for want of the proxy.
func (s *suite) unavailable(t *testing.T) {
	t.Helper()
	_, err := s.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: s.podID, Config: s.container(busybox), SandboxConfig: s.pod})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "snapshot proxy lazy does not answer") || !strings.Contains(err.Error(), "start its service") {
		t.Errorf("without the proxy: %v", err)
	}
}

// restart stops the daemon and starts it again.
func (s *suite) restart(t *testing.T) {
	t.Helper()
	if err := s.Node.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.Node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func gunzip(t *testing.T, data []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
