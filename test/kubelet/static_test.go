package kubelet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestStaticPods gives kubelet all manifests of testdata at once, so that they work
// while others are looked at, and expects of each what its kind promises.
func TestStaticPods(t *testing.T) {
	s := open(t)
	for _, name := range manifests(t) {
		if name != "pull-cached" && name != "pull-unreachable" {
			s.give(t, name)
		}
	}
	for _, c := range []struct {
		name  string
		check func(*testing.T, *suite)
	}{
		{"missing volume", missingVolume},
		{"init containers", initContainers},
		{"exec probes", execProbes},
		{"http probes", httpProbes},
		{"restarts", restarts},
		{"volumes", volumes},
		{"limits", limits},
		{"termination", termination},
		{"user namespace", userNamespace},
		{"pull policies", pullPolicies},
		{"log rotation", logRotation},
		{"stats", stats},
		{"kubelet restarts", kubeletRestarts},
		{"berthd restarts", berthdRestarts},
		{"registry away", registryAway},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(t, s) })
	}
	s.close(t)
}

func initContainers(t *testing.T, s *suite) {
	p := s.ready(t, "init")
	for _, name := range []string{"first", "second"} {
		if c, err := p.container(name); err != nil || c.State.Terminated == nil || c.State.Terminated.Reason != "Completed" || c.State.Terminated.ExitCode != 0 {
			t.Errorf("%s: %v, %v", name, c.State, err)
		}
	}
	if c, err := p.container("beside"); err != nil || c.State.Running == nil || !c.Ready || c.RestartCount != 0 {
		t.Errorf("the sidecar: %+v, %v", c, err)
	}
	out, err := s.kubelet.run("init", "main", "cat", "/work/order")
	if err != nil || strings.Join(strings.Fields(out), " ") != "first beside second main" {
		t.Errorf("order %q, %v", out, err)
	}
}

func execProbes(t *testing.T, s *suite) {
	first := s.container(t, "probes-exec", "main", "runs and has not started", func(c container) bool { return c.State.Running != nil && c.Started != nil && !*c.Started })
	s.put(t, "gate/started", "")
	s.container(t, "probes-exec", "main", "has started and is not ready", func(c container) bool { return c.Started != nil && *c.Started && !c.Ready })
	s.put(t, "gate/ready", "")
	s.container(t, "probes-exec", "main", "is ready", func(c container) bool { return c.Ready })
	if err := os.Remove(s.path("gate/ready")); err != nil {
		t.Fatal(err)
	}
	s.container(t, "probes-exec", "main", "is not ready any more", func(c container) bool { return !c.Ready && c.RestartCount == 0 })
	s.put(t, "gate/sick", "")
	s.container(t, "probes-exec", "main", "is ended", func(c container) bool {
		return c.RestartCount == 1 || c.State.Terminated != nil || c.State.Waiting != nil
	})
	if err := os.Remove(s.path("gate/sick")); err != nil {
		t.Fatal(err)
	}
	c := s.container(t, "probes-exec", "main", "runs again", func(c container) bool { return c.RestartCount > 0 && c.State.Running != nil })
	if c.Last.Terminated == nil || c.Last.Terminated.ExitCode != 137 || c.Last.Terminated.ContainerID == c.ContainerID || c.ContainerID == first.ContainerID {
		t.Errorf("after a liveness probe failed: %+v, before %s", c, c.Last)
	}
	slow := s.container(t, "probes-exec", "slow", "runs", func(c container) bool { return c.State.Running != nil })
	if slow.Ready || slow.RestartCount != 0 {
		t.Errorf("a readiness probe that takes too long: %+v", slow)
	}
}

func httpProbes(t *testing.T, s *suite) {
	p := s.ready(t, "probes-http")
	for _, url := range []string{"http://" + p.Status.PodIP + "/", fmt.Sprintf("http://127.0.0.1:%d/", s.port)} {
		if page, err := s.kubelet.get(url); err != nil || !strings.Contains(string(page), "This page comes from a pod.") {
			t.Errorf("%s: %q, %v", url, page, err)
		}
	}
	if _, err := s.kubelet.run("probes-http", "main", "rm", "/www/index.html"); err != nil {
		t.Error(err)
	}
	s.container(t, "probes-http", "main", "was started again and is ready", func(c container) bool { return c.RestartCount > 0 && c.Ready })
}

func restarts(t *testing.T, s *suite) {
	c := s.container(t, "restart-always", "main", "is started again and again", func(c container) bool { return c.RestartCount >= 2 && c.Last.Terminated != nil })
	if c.Last.Terminated.ExitCode != 0 || c.Last.Terminated.Reason != "Completed" {
		t.Errorf("Always: %s", c.Last)
	}
	s.withdraw(t, "restart-always")
	p := s.becomes(t, "restart-onfailure", "succeeds", func(p pod) bool { return p.Status.Phase == "Succeeded" })
	if c, err := p.container("main"); err != nil || c.RestartCount != 2 {
		t.Errorf("OnFailure: %v, %v", p, err)
	}
	p = s.becomes(t, "restart-never", "fails", func(p pod) bool { return p.Status.Phase == "Failed" })
	if c, err := p.container("main"); err != nil || c.RestartCount != 0 || c.State.Terminated.ExitCode != 3 ||
		c.State.Terminated.Reason != "Error" || strings.TrimSpace(c.State.Terminated.Message) != "last words" {
		t.Errorf("Never: %v, %v", p, err)
	}
	if log, err := s.kubelet.log("restart-never", "main"); err != nil || log != "hello\n" {
		t.Errorf("kubelet's log: %q, %v", log, err)
	}
}

func volumes(t *testing.T, s *suite) {
	p := s.becomes(t, "volumes", "ends", func(p pod) bool { return p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" })
	if p.Status.Phase != "Succeeded" {
		for _, c := range []string{"writer", "reader"} {
			log, err := s.kubelet.log("volumes", c)
			t.Errorf("%s: %v\n%s", c, err, log)
		}
	}
	if got := s.text("host/answer") + ", " + s.text("made/file"); got != "from the pod, made" {
		t.Errorf("on the host: %s", got)
	}
	s.becomes(t, "volumes-missing", "succeeds", func(p pod) bool { return p.Status.Phase == "Succeeded" })
}

// missingVolume: what a pod waits for may come later. It comes before the others are
// looked at, since kubelet looks less and less often.
func missingVolume(t *testing.T, s *suite) {
	s.becomes(t, "volumes-missing", "waits", func(p pod) bool { return p.Status.Phase == "Pending" })
	if err := os.Mkdir(s.path("missing"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func limits(t *testing.T, s *suite) {
	p := s.ready(t, "limits")
	c, err := p.container("main")
	if err != nil {
		t.Fatal(err)
	}
	at := cgroupOf(t, s.process(t, c.ContainerID))
	parent := "/" + filepath.Join(s.kubelet.root, "kubepods/burstable/pod"+p.Metadata.UID)
	if bySystemd() {
		uid := strings.ReplaceAll(p.Metadata.UID, "-", "_")
		parent = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uid + ".slice"
	}
	if filepath.Dir(at) != filepath.Clean(parent) {
		t.Errorf("the container is in %s, the pod in %s", at, parent)
	}
	files := map[string]string{"memory/%s/memory.limit_in_bytes": "50331648", "cpu/%s/cpu.cfs_quota_us": "30000", "cpu/%s/cpu.shares": "102"}
	if onV2() {
		files = map[string]string{"%s/memory.max": "50331648", "%s/cpu.max": "30000 100000", "%s/memory.swap.max": "0", "%s/memory.oom.group": "1"}
	}
	for pattern, want := range files {
		path := filepath.Join("/sys/fs/cgroup", fmt.Sprintf(pattern, at))
		data, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) && strings.Contains(path, "swap") {
			continue // a kernel that does not count swap
		}
		if got := strings.TrimSpace(string(data)); err != nil || got != want {
			t.Errorf("%s: %q, want %q (%v)", path, got, want, err)
		}
	}
	oom := s.becomes(t, "limits-oom", "fails", func(p pod) bool { return p.Status.Phase == "Failed" })
	if c, err := oom.container("main"); err != nil || c.State.Terminated.Reason != "OOMKilled" || c.State.Terminated.ExitCode != 137 {
		t.Errorf("beyond its memory: %v, %v", oom, err)
	}
}

// termination: a pod that is taken away has its time, and not more.
func termination(t *testing.T, s *suite) {
	p := s.ready(t, "termination")
	ids := map[string]string{}
	for _, name := range []string{"polite", "deaf"} {
		until(t, name+" is up", func() error {
			if got := s.text("host/" + name); got != "up" {
				return errors.New(got)
			}
			return nil
		})
		c, err := p.container(name)
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = strings.TrimPrefix(c.ContainerID, "berth://")
	}
	s.withdraw(t, "termination")
	codes := map[string]int32{"polite": 9, "deaf": 137}
	ended := map[string]bool{}
	until(t, "both have ended", func() error {
		for name, id := range ids {
			list, err := s.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: id}})
			if err != nil {
				return err
			}
			if len(list.GetContainers()) == 0 { // kubelet has removed it
				ended[name] = true
				continue
			}
			st, err := s.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
			if err != nil {
				return err
			}
			if st.GetStatus().GetState() != runtimeapi.ContainerState_CONTAINER_EXITED {
				return fmt.Errorf("%s: %s", name, st.GetStatus().GetState())
			}
			if code := st.GetStatus().GetExitCode(); code != codes[name] {
				t.Errorf("%s: code %d, want %d", name, code, codes[name])
			}
			ended[name] = true
		}
		return nil
	})
	if got := strings.Fields(s.text("host/polite")); !slices.Equal(got, []string{"up", "hook", "TERM"}) {
		t.Errorf("polite: %q", got)
	}
	if got := strings.Fields(s.text("host/deaf")); !slices.Equal(got, []string{"up", "TERM"}) {
		t.Errorf("deaf: %q", got)
	}
	until(t, "kubelet forgets it", func() error {
		p, err := s.kubelet.pod("termination")
		switch {
		case err == nil:
			return errors.New(p.String())
		case errors.Is(err, errNoPod):
			return nil
		}
		return err
	})
}

func userNamespace(t *testing.T, s *suite) {
	s.ready(t, "user-namespace")
	out, err := s.kubelet.run("user-namespace", "main", "cat", "/proc/self/uid_map")
	if f := strings.Fields(out); err != nil || len(f) != 3 || f[0] != "0" || f[1] == "0" || f[2] != "65536" {
		t.Errorf("uid_map %q, %v", out, err)
	}
}
