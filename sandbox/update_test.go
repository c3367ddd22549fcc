package sandbox

import (
	"errors"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// An update is in the kernel, in the bundle and on record, also for the next daemon;
// one that is refused is nowhere.
func TestUpdate(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	podID, id := full(t, n, "p", false)
	u := Update{Resources: &runtimeapi.LinuxContainerResources{CpuQuota: 20000, CpuPeriod: 100000}, Annotations: map[string]string{"a": "1"}}
	if err := n.Containers.Update(t.Context(), id, u); err != nil {
		t.Fatal(err)
	}
	check := func(n *Node, quota int64) {
		t.Helper()
		c, err := n.Containers.Get(id)
		if err != nil {
			t.Fatal(err)
		}
		r := c.Record()
		if r.Resources().GetCpuQuota() != quota || r.Resources().GetCpuPeriod() != 100000 || r.UpdateAnnotations["a"] != "1" {
			t.Errorf("on record: %v, %v", r.Resources(), r.UpdateAnnotations)
		}
		s, err := readBundle(n.Containers.opts.bundle(id))
		if err != nil || s.Linux.Resources.CPU == nil || *s.Linux.Resources.CPU.Quota != quota {
			t.Errorf("bundle: %+v, %v", s.Linux.Resources.CPU, err)
		}
	}
	check(n, 20000)
	f.setFault("Tasks.Update", false)
	err := n.Containers.Update(t.Context(), id, Update{Resources: &runtimeapi.LinuxContainerResources{CpuQuota: 30000}})
	if !errors.Is(err, errFault) {
		t.Errorf("refused: %v", err)
	}
	f.setFault("", false)
	check(n, 20000)
	if err := n.Containers.Update(t.Context(), id, Update{Resources: &runtimeapi.LinuxContainerResources{OomScoreAdj: 2000}}); err == nil {
		t.Error("a score of 2000 is taken")
	}
	check(n, 20000)
	n.Close()
	n = f.open(t, dir)
	defer n.Close()
	check(n, 20000)
	if err := n.Containers.Update(t.Context(), id, Update{Resources: &runtimeapi.LinuxContainerResources{CpuQuota: 40000}}); err != nil {
		t.Fatal(err)
	}
	check(n, 40000)
	if err := n.Containers.Stop(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	if err := n.Containers.Update(t.Context(), id, u); !errors.Is(err, ErrBadState) {
		t.Errorf("of an exited container: %v", err)
	}
	if err := n.Containers.Update(t.Context(), "nobody", u); !errors.Is(err, ErrNotFound) {
		t.Errorf("of nobody: %v", err)
	}
	if err := n.Pods.Remove(t.Context(), podID); err != nil {
		t.Fatal(err)
	}
	assertNothing(t, f, dir)
}

// What a pod is to have is on record for the next daemon, and nil leaves it.
func TestUpdatePod(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	podID, _ := full(t, n, "p", false)
	if err := n.Pods.UpdateResources(podID, &runtimeapi.LinuxContainerResources{CpuShares: 5}, &runtimeapi.LinuxContainerResources{CpuShares: 7}); err != nil {
		t.Fatal(err)
	}
	if err := n.Pods.UpdateResources(podID, nil, nil); err != nil {
		t.Fatal(err)
	}
	n.Close()
	n = f.open(t, dir)
	defer n.Close()
	p, err := n.Pods.Get(podID)
	if err != nil {
		t.Fatal(err)
	}
	if r := p.Record(); r.Overhead().GetCpuShares() != 5 || r.Resources().GetCpuShares() != 7 {
		t.Errorf("on record: %v, %v", r.Overhead(), r.Resources())
	}
	if err := n.Pods.UpdateResources("nobody", nil, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("of nobody: %v", err)
	}
	if err := n.Pods.Remove(t.Context(), podID); err != nil {
		t.Fatal(err)
	}
	assertNothing(t, f, dir)
}
