package sandbox

import (
	"sync/atomic"
	"testing"
)

// TestMade: what is made of a record is made once for each version of it, and of that version.
func TestMade(t *testing.T) {
	var listed atomic.Uint64
	c := cell[ContainerRecord]{path: t.TempDir() + "/c.json", listed: &listed}
	c.set(ContainerRecord{ID: "c", State: Created})
	calls := 0
	state := func() State {
		return c.Made(func(r *ContainerRecord) any { calls++; return r.State }).(State)
	}
	if state() != Created || state() != Created || calls != 1 {
		t.Errorf("made %d times, %s", calls, state())
	}
	before := listed.Load()
	if err := c.update(true, func(r *ContainerRecord) error { r.State = Running; return nil }); err != nil {
		t.Fatal(err)
	}
	if listed.Load() != before+1 {
		t.Errorf("%d changes are counted of one", listed.Load()-before)
	}
	if state() != Running || state() != Running || calls != 2 {
		t.Errorf("after a change made %d times, %s", calls, state())
	}
	if err := c.update(true, func(*ContainerRecord) error { return ErrBadState }); err == nil || listed.Load() != before+1 || state() != Running || calls != 2 {
		t.Errorf("a change that was refused: %v, made %d times", err, calls)
	}
}

// TestChanges: whatever changes what a list shows is counted.
func TestChanges(t *testing.T) {
	f := newFakeNode(t)
	n := f.open(t, t.TempDir())
	defer n.Close()
	var pods, containers uint64
	changed := func(what string, inPods, inContainers bool) {
		t.Helper()
		if got := n.Pods.Changes() != pods; got != inPods {
			t.Errorf("%s: pods have changed: %t", what, got)
		}
		if got := n.Containers.Changes() != containers; got != inContainers {
			t.Errorf("%s: containers have changed: %t", what, got)
		}
		pods, containers = n.Pods.Changes(), n.Containers.Changes()
	}
	changed("nothing", false, false)
	pod, err := n.Pods.Run(t.Context(), podSpec("a", false))
	if err != nil {
		t.Fatal(err)
	}
	changed("a pod", true, false)
	c, err := n.Containers.Create(t.Context(), pod.ID, containerSpec("c", "image"))
	if err != nil {
		t.Fatal(err)
	}
	changed("a container", false, true)
	if err := n.Containers.Start(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	changed("a start", false, true)
	n.Pods.List()
	n.Containers.List()
	changed("a look", false, false)
	if err := n.Containers.Stop(t.Context(), c.ID, 0); err != nil {
		t.Fatal(err)
	}
	changed("an end", false, true)
	if err := n.Containers.Remove(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	changed("a removal", false, true)
	if err := n.Pods.Remove(t.Context(), pod.ID); err != nil {
		t.Fatal(err)
	}
	changed("a pod's removal", true, false)
}
