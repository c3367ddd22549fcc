package security

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

const busybox = "docker.io/library/busybox:latest"

// A suite is a world with one berth node that has busybox.
type suite struct {
	*node.Client
	node *node.Node
	logs string
	made int
}

// open starts a fresh daemon. The test's end removes it and expects no trace.
func open(t *testing.T) *suite {
	t.Helper()
	return openWith(t, "")
}

// openWith is open with more in the daemon's configuration.
func openWith(t *testing.T, extra string) *suite {
	t.Helper()
	if testing.Short() {
		t.Skip("needs root")
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
	n, err := w.Berth("berth", "[cgroup]\ndriver = \"cgroupfs\"\n"+extra) // pods name their parents so
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := n.StartFresh(ctx); err != nil {
		t.Fatal(err)
	}
	s := &suite{node: n, logs: filepath.Join(w.Dir, "logs")}
	if err := os.MkdirAll(s.logs, 0o755); err != nil {
		t.Fatal(err)
	}
	if s.Client, err = n.Client(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.end(t, clean) })
	if _, err := s.Pull(ctx, busybox); err != nil {
		t.Fatal(err)
	}
	return s
}

// end removes what the test made.
func (s *suite) end(t *testing.T, ctx context.Context) {
	defer s.Client.Close()
	if t.Failed() {
		t.Logf("end of berthd's log:\n%s", s.node.Tail(30))
	}
	if err := s.RemoveAll(ctx); err != nil {
		t.Error(err)
	}
	for _, pattern := range []string{"/sys/fs/cgroup" + cgroup, "/sys/fs/cgroup/*" + cgroup} { // kubelet's to remove, so ours
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			t.Error(err)
		}
		for _, dir := range dirs {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
	}
	left, err := s.node.LeftBehind(ctx)
	if err != nil {
		t.Error(err)
	}
	for i, l := range left {
		if i == 10 {
			t.Errorf("and %d more", len(left)-i)
			break
		}
		t.Error("left by the daemon:", l)
	}
}

// A change says how a pod or its containers differ from the plain ones.
type change struct {
	pod       func(*runtimeapi.PodSandboxConfig)
	container func(*runtimeapi.ContainerConfig)
}

// cgroup is the parent of all the pods' cgroups here.
const cgroup = "/berth-security-test"

// pod runs a pod.
func (s *suite) pod(t *testing.T, changes ...change) (string, *runtimeapi.PodSandboxConfig) {
	t.Helper()
	s.made++
	conf := node.Pod(fmt.Sprintf("pod%d", s.made), s.logs)
	conf.Linux.CgroupParent = cgroup
	for _, c := range changes {
		if c.pod != nil {
			c.pod(conf)
		}
	}
	id, err := s.RunPod(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	return id, conf
}

// container starts a container that sleeps.
func (s *suite) container(t *testing.T, podID string, pod *runtimeapi.PodSandboxConfig, changes ...change) string {
	t.Helper()
	id, err := s.tryContainer(t, podID, pod, changes...)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (s *suite) tryContainer(t *testing.T, podID string, pod *runtimeapi.PodSandboxConfig, changes ...change) (string, error) {
	t.Helper()
	s.made++
	conf := node.Container(fmt.Sprintf("c%d", s.made), busybox, "sleep", "100000")
	conf.Linux.SecurityContext.NamespaceOptions = pod.GetLinux().GetSecurityContext().GetNamespaceOptions()
	for _, c := range changes {
		if c.container != nil {
			c.container(conf)
		}
	}
	return s.Run(t.Context(), podID, pod, conf)
}

// sh runs a shell command in a container and returns what it wrote, trimmed.
func (s *suite) sh(t *testing.T, id, script string) string {
	t.Helper()
	resp, err := s.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-ec", script}, Timeout: 60})
	if err != nil || resp.GetExitCode() != 0 {
		t.Errorf("%s: %v, code %d: %s%s", script, err, resp.GetExitCode(), resp.GetStdout(), resp.GetStderr())
	}
	return string(bytes.TrimSpace(resp.GetStdout()))
}

// says expects a command's words.
func (s *suite) says(t *testing.T, id, script, want string) {
	t.Helper()
	if got := strings.Join(strings.Fields(s.sh(t, id, script)), " "); got != want {
		t.Errorf("%s: %q, want %q", script, got, want)
	}
}

// pid is the container's first process on the host.
func (s *suite) pid(t *testing.T, id string) string {
	t.Helper()
	resp, err := s.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetInfo()["pid"]
}

// proc reads a file of a host's process.
func proc(t *testing.T, pid, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// field is a line of /proc/<pid>/status.
func field(t *testing.T, pid, name string) string {
	t.Helper()
	_, rest, _ := strings.Cut(proc(t, pid, "status"), "\n"+name+":")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.Join(strings.Fields(line), " ")
}

// namespace is which one of a kind a process is in.
func namespace(t *testing.T, pid, kind string) string {
	t.Helper()
	ns, err := os.Readlink(filepath.Join("/proc", pid, "ns", kind))
	if err != nil {
		t.Fatal(err)
	}
	return ns
}
