package sandbox

import (
	"errors"
	"testing"
	"time"
)

// A creation that takes long is told of, by its pod's name and with its stage, although its
// container is not listed yet; one that has just begun is not.
func TestUnderWay(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	defer n.Close()
	p, err := n.Pods.Run(t.Context(), podSpec("p", false))
	if err != nil {
		t.Fatal(err)
	}
	f.arrived, f.let = make(chan struct{}), make(chan struct{})
	made := make(chan error, 1)
	go func() {
		_, err := n.Containers.Create(t.Context(), p.ID, containerSpec("c", "image"))
		made <- err
	}()
	<-f.arrived
	if list := n.underWay(time.Now()); len(list) != 0 {
		t.Errorf("at once: %+v", list)
	}
	list := n.underWay(time.Now().Add(2 * underWayAfter))
	if len(list) != 1 {
		t.Fatalf("later: %+v, want one", list)
	}
	o, m := list[0], p.Config().GetMetadata()
	if o.Object != "container" || o.Name != m.GetNamespace()+"/p/c" || o.Operation != "creation" || o.Stage == "waiting" || o.Stage == "" || o.Since.IsZero() || o.ID == "" {
		t.Errorf("%+v", o)
	}
	close(f.let)
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	if list := n.underWay(time.Now().Add(2 * underWayAfter)); len(list) != 0 {
		t.Errorf("afterwards: %+v", list)
	}
	if err := n.Pods.Remove(t.Context(), p.ID); err != nil {
		t.Error(err)
	}
	assertNothing(t, f, dir)
}

// A pod's removal that gets no further than its containers says so, among the pod's own stages.
func TestRemovalNamesContainers(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	defer n.Close()
	p, err := n.Pods.Run(t.Context(), podSpec("p", false))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Containers.Create(t.Context(), p.ID, containerSpec("c", "image")); err != nil {
		t.Fatal(err)
	}
	f.setFault("Roots.Remove", false)
	if err := n.Pods.Remove(t.Context(), p.ID); !errors.Is(err, errFault) {
		t.Errorf("removal: %v", err)
	}
	pod, err := n.Pods.Get(p.ID)
	if err != nil {
		t.Fatal(err)
	}
	stages := pod.trace.Stages()
	if last := stages[len(stages)-1]; last.Name != "remove containers" || last.Error == "" {
		t.Errorf("last stage: %+v", last)
	}
	f.setFault("", false)
	if err := n.Pods.Remove(t.Context(), p.ID); err != nil {
		t.Error(err)
	}
	assertNothing(t, f, dir)
}
