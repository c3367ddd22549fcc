package kubelet

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
)

// lasting are pods that nothing happens to, by their container.
var lasting = map[string]string{"init": "main", "limits": "main", "user-namespace": "main", "logs": "main", "survivor": "main"}

// A run is one run of a container.
type run struct {
	id, pid  string
	restarts int
}

// runs are the runs of the lasting pods' containers now.
func (s *suite) runs(t *testing.T) map[string]run {
	t.Helper()
	all := map[string]run{}
	for name, of := range lasting {
		p := s.ready(t, name)
		c, err := p.container(of)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = run{c.ContainerID, s.process(t, c.ContainerID), c.RestartCount}
	}
	return all
}

// through: what is done while the survivor's container ends with code 7, all others
// do not notice; kubelet starts that one again, once, and knows how it ended.
func (s *suite) through(t *testing.T, away, back func()) {
	t.Helper()
	before := s.runs(t)
	away()
	was := before["survivor"]
	exitWith7(t, was.pid)
	back()
	c := s.container(t, "survivor", "main", "runs again", func(c container) bool { return c.ContainerID != was.id && c.State.Running != nil })
	if c.Last.Terminated == nil || c.Last.Terminated.ExitCode != 7 || c.RestartCount != was.restarts+1 {
		t.Errorf("survivor: %+v, before: %s", c, c.Last)
	}
	after := s.runs(t)
	delete(before, "survivor")
	delete(after, "survivor")
	if !maps.Equal(before, after) {
		t.Errorf("were %v, are %v", before, after)
	}
	if out, err := s.kubelet.run("limits", "main", "echo", "hello"); err != nil || out != "hello" {
		t.Errorf("a command in a pod: %q, %v", out, err)
	}
}

func kubeletRestarts(t *testing.T, s *suite) {
	s.through(t, func() { s.kubelet.stop(t) }, func() { s.kubelet.start(t) })
}

func berthdRestarts(t *testing.T, s *suite) {
	s.through(t, s.Node.Kill, func() {
		if err := s.Node.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// pullPolicies: what is local counts for Never, and what is not there is said.
func pullPolicies(t *testing.T, s *suite) {
	if c, err := s.ready(t, "pull-always").container("main"); err != nil || !strings.HasPrefix(c.ImageID, "sha256:") && !strings.Contains(c.ImageID, "@sha256:") {
		t.Errorf("Always: %+v, %v", c, err)
	}
	s.container(t, "pull-never", "main", "has no image", func(c container) bool {
		return c.State.Waiting != nil && c.State.Waiting.Reason == "ErrImageNeverPull"
	})
	c := s.container(t, "pull-missing", "main", "has no image", func(c container) bool {
		return c.State.Waiting != nil && (c.State.Waiting.Reason == "ErrImagePull" || c.State.Waiting.Reason == "ImagePullBackOff")
	})
	if text := c.State.Waiting.Message; !strings.Contains(text, "no-such-image") || !strings.Contains(text, "Not Found") {
		t.Errorf("a missing image: %q", text)
	}
	if _, err := s.Pull(t.Context(), "docker.io/library/whiteouts:latest"); err != nil {
		t.Fatal(err)
	}
	s.becomes(t, "pull-never", "has run, as the image is local", func(p pod) bool {
		c, err := p.container("main")
		return err == nil && (c.State.Running != nil || c.State.Terminated != nil || c.Last.Terminated != nil)
	})
}

// registryAway: kubelet starts what is local, and says why nothing else starts.
func registryAway(t *testing.T, s *suite) {
	if err := s.World.Registry.Close(); err != nil {
		t.Fatal(err)
	}
	s.give(t, "pull-cached")
	s.give(t, "pull-unreachable")
	s.ready(t, "pull-cached")
	s.container(t, "pull-unreachable", "main", "says that the registry is not there", func(c container) bool {
		return c.State.Waiting != nil && c.State.Waiting.Reason == "RegistryUnavailable"
	})
}

// stats: kubelet's summary and metrics have what berthd counts.
func stats(t *testing.T, s *suite) {
	type amount struct{ UsageCoreNanoSeconds, WorkingSetBytes, AvailableBytes, UsedBytes uint64 }
	type counted struct {
		Name                      string
		CPU, Memory, Rootfs, Logs amount
	}
	until(t, "the summary has the pod", func() error {
		data, err := s.kubelet.get(s.kubelet.url("http", "/stats/summary"))
		if err != nil {
			return err
		}
		var summary struct {
			Pods []struct {
				PodRef      struct{ Name string }
				Containers  []counted
				CPU, Memory amount
				Network     struct{ Name string }
			}
		}
		if err := json.Unmarshal(data, &summary); err != nil {
			return err
		}
		for _, p := range summary.Pods {
			if p.PodRef.Name != "limits-"+nodeName {
				continue
			}
			if len(p.Containers) != 1 {
				return fmt.Errorf("%+v", p)
			}
			c := p.Containers[0]
			if c.CPU.UsageCoreNanoSeconds == 0 || c.Memory.WorkingSetBytes == 0 || c.Memory.AvailableBytes != 48<<20-c.Memory.WorkingSetBytes ||
				p.CPU.UsageCoreNanoSeconds == 0 || p.Memory.WorkingSetBytes == 0 || p.Network.Name != "eth0" {
				return fmt.Errorf("%+v", p)
			}
			return nil
		}
		return errors.New("it is not there")
	})
	until(t, "the metrics have the container", func() error {
		data, err := s.kubelet.get(s.kubelet.url("http", "/metrics/cadvisor"))
		for line := range strings.Lines(string(data)) {
			if strings.HasPrefix(line, "container_memory_working_set_bytes{") && strings.Contains(line, `container="main"`) && strings.Contains(line, `pod="limits-`) {
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("not in %d bytes", len(data)))
	})
}
