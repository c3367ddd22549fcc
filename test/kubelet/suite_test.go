package kubelet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// A suite is a node with a kubelet on it.
type suite struct {
	*node.Fresh
	kubelet *kubelet
	dir     string // what pods share with the host
	port    int    // of the node, for a pod
}

// open starts berthd and kubelet. close takes all of it away.
func open(t *testing.T) *suite {
	t.Helper()
	if testing.Short() {
		t.Skip("long, and needs root")
	}
	restoreSettings(t)
	s := &suite{Fresh: node.Open(t, "", func(w *node.World) {
		if err := w.BuildKubelet(t.Context()); err != nil {
			t.Fatal(err)
		}
	}), port: freePort(t)}
	s.dir = filepath.Join(s.World.Dir, "shared")
	for _, d := range []string{"gate", "host"} {
		if err := os.MkdirAll(s.path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.put(t, "host/file", "from the host")
	makeCgroupRoot(t)
	s.kubelet = newKubelet(t, s.Fresh)
	s.kubelet.start(t)
	return s
}

// close has kubelet take its pods away, and expects no trace of all.
func (s *suite) close(t *testing.T) {
	t.Helper()
	for _, name := range manifests(t) {
		s.withdraw(t, name)
	}
	s.ended(t)
	s.kubelet.stop(t)
	unmountBelow(t, s.kubelet.dir)
	s.Done(t)
	if t.Failed() {
		return
	}
	removeCgroupRoot(t)
	left, err := s.World.Leaks(t.Context())
	if err != nil {
		t.Error(err)
	}
	for _, l := range left {
		t.Error("left on the machine:", l)
	}
}

// ended waits until no pod is ready and kubelet has taken away the pods' cgroups.
func (s *suite) ended(t *testing.T) {
	t.Helper()
	until(t, "kubelet ends its pods", func() error {
		list, err := s.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
			State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}}})
		if err != nil {
			return err
		}
		for _, p := range list.GetItems() {
			return fmt.Errorf("%s is ready", p.GetMetadata().GetName())
		}
		if left := podCgroups(t, s.kubelet.root); len(left) > 0 {
			return fmt.Errorf("cgroup %s is there", left[0])
		}
		return nil
	})
}

func (s *suite) path(name string) string { return filepath.Join(s.dir, name) }

// put writes a file that pods share, whole.
func (s *suite) put(t *testing.T, name, text string) {
	t.Helper()
	at := s.path(name)
	if err := errors.Join(os.WriteFile(at+".new", []byte(text+"\n"), 0o644), os.Rename(at+".new", at)); err != nil {
		t.Fatal(err)
	}
}

// text is what is in a file that pods share, without the last line's end.
func (s *suite) text(name string) string {
	data, err := os.ReadFile(s.path(name))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(data))
}

// manifests lists those in testdata.
func manifests(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".yaml"))
	}
	return names
}

// give puts a pod's manifest where kubelet looks.
func (s *suite) give(t *testing.T, name string) {
	t.Helper()
	tmpl, err := template.ParseFiles(filepath.Join("testdata", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tmpl.Execute(&b, map[string]any{"Dir": s.dir, "Port": s.port, "Second": int(second.Seconds())}); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(s.kubelet.manifests, name+".yaml")
	hidden := filepath.Join(s.kubelet.manifests, "."+name)
	if err := errors.Join(os.WriteFile(hidden, b.Bytes(), 0o644), os.Rename(hidden, to)); err != nil {
		t.Fatal(err)
	}
}

// withdraw takes it away; it need not be there.
func (s *suite) withdraw(t *testing.T, name string) {
	t.Helper()
	err := os.Remove(filepath.Join(s.kubelet.manifests, name+".yaml"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

// becomes waits until a pod is as ask wants it, and returns it.
func (s *suite) becomes(t *testing.T, name, what string, ask func(pod) bool) (p pod) {
	t.Helper()
	until(t, name+" "+what, func() (err error) {
		if p, err = s.kubelet.pod(name); err == nil && !ask(p) {
			err = errors.New(p.String())
		}
		return err
	})
	return p
}

func (s *suite) ready(t *testing.T, name string) pod {
	t.Helper()
	return s.becomes(t, name, "is ready", func(p pod) bool { return p.is("Ready") })
}

// container waits until a pod's container is as ask wants it, and returns it.
func (s *suite) container(t *testing.T, name, of, what string, ask func(container) bool) (c container) {
	t.Helper()
	s.becomes(t, name, of+" "+what, func(p pod) bool {
		var err error
		c, err = p.container(of)
		return err == nil && ask(c)
	})
	return c
}

// process is the PID of a container, by the ID that kubelet gives.
func (s *suite) process(t *testing.T, id string) string {
	t.Helper()
	id = strings.TrimPrefix(id, "berth://")
	resp, err := s.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetInfo()["pid"]
}

// settings are those that kubelet changes.
var settings = []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"}

// restoreSettings puts the machine's settings back at the test's end, and removes
// the folder that kubelet makes for device plugins, wherever its others are.
func restoreSettings(t *testing.T) {
	t.Helper()
	const plugins = "/var/lib/kubelet"
	if _, err := os.Stat(plugins); err == nil {
		t.Fatalf("%s is there: this machine has a kubelet of its own", plugins)
	}
	was := map[string][]byte{}
	for _, name := range settings {
		data, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if err != nil {
			t.Fatal(err)
		}
		was[name] = data
	}
	t.Cleanup(func() {
		for name, data := range was {
			if err := os.WriteFile(filepath.Join("/proc/sys", name), data, 0o644); err != nil {
				t.Error(err)
			}
		}
		if err := os.RemoveAll(plugins); err != nil {
			t.Error(err)
		}
	})
}

// systemctl runs it where systemd runs the machine.
func systemctl(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl %v: %w: %s", args, err, out)
	}
	return nil
}
