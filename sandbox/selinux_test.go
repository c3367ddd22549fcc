package sandbox

import (
	"errors"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/sandbox/selinux"
)

// TestPodLevels: a pod has a level that no other has, from the record's step to its
// removal, and the next daemon knows which are taken.
func TestPodLevels(t *testing.T) {
	policy := &selinux.Policy{Process: "system_u:system_r:container_t:s0", File: "system_u:object_r:container_file_t:s0"}
	ps := &Pods{opts: Options{SELinux: policy.Asking(func(string) error { return nil })}, events: &Events{}}
	dir := t.TempDir()
	pod := func(id string, o *runtimeapi.SELinuxOption) *Pod {
		t.Helper()
		cfg, err := newMessage(&runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{SelinuxOptions: o}}})
		if err != nil {
			t.Fatal(err)
		}
		return newPod(PodRecord{ID: id, State: Creating, PodConfig: cfg}, dir+"/"+id, ps.events)
	}
	a, b := pod("a", nil), pod("b", &runtimeapi.SELinuxOption{Level: "s0:c4,c5"})
	for _, p := range []*Pod{a, b, a} {
		if err := ps.level(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if l := a.Record().Level; l == "" || l == "s0:c4,c5" {
		t.Errorf("a has level %q", l)
	}
	if l := b.Record().Level; l != "s0:c4,c5" {
		t.Errorf("b has level %q, not what kubelet said", l)
	}
	var saved PodRecord
	if err := loadRecord(dir+"/a", &saved); err != nil || saved.Level != a.Record().Level {
		t.Errorf("on record: %q, %v", saved.Level, err)
	}
	ps.opts.SELinux = policy.Asking(func(string) error { return errors.New("unknown") })
	c := pod("c", &runtimeapi.SELinuxOption{Type: "no_t"})
	if err := ps.level(t.Context(), c); !errors.Is(err, ErrInvalid) || !errors.Is(err, selinux.ErrUnknownLabel) || c.Record().Level != "" {
		t.Errorf("a label that the policy does not know: %v, level %q", err, c.Record().Level)
	}
	ps.opts.SELinux = nil
	d := pod("d", nil)
	if err := ps.level(t.Context(), d); err != nil || d.Record().Level != "" {
		t.Errorf("without SELinux: %v, level %q", err, d.Record().Level)
	}
}

// TestContainerLevels: a level that kubelet gives to one container is no other pod's,
// until the container is removed, and the next daemon knows.
func TestContainerLevels(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	p, err := n.Pods.Run(t.Context(), podSpec("pod", false))
	if err != nil {
		t.Fatal(err)
	}
	const level = "s0:c4,c5"
	c := containerSpec("c", "image")
	c.Config.Linux.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{Level: level}
	rec, err := n.Containers.Create(t.Context(), p.ID, c)
	if err != nil {
		t.Fatal(err)
	}
	holds := func() bool {
		t.Helper()
		got, err := n.Pods.levels.Take(rec.ID) // the same when it has one
		if err != nil {
			t.Fatal(err)
		}
		return got == level
	}
	if !holds() {
		t.Error("the container's level is free")
	}
	n.Close()
	n = f.open(t, dir)
	defer n.Close()
	if !holds() {
		t.Error("the container's level is free after a restart")
	}
	if err := n.Containers.Remove(t.Context(), rec.ID); err != nil {
		t.Fatal(err)
	}
	if holds() {
		t.Error("the level of a container that is gone is not free")
	}
	if err := n.Pods.Remove(t.Context(), p.ID); err != nil {
		t.Fatal(err)
	}
}
