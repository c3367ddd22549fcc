package sandbox

import (
	"errors"
	"fmt"
	"strings"
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

// A creation that failed and left nothing is told of until it succeeds.
func TestFailures(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	defer n.Close()
	f.setFault("Network.Attach", false)
	for range 2 {
		if _, err := n.Pods.Run(t.Context(), podSpec("p", false)); !errors.Is(err, errFault) {
			t.Fatal(err)
		}
	}
	list := n.Failures()
	if len(list) != 1 {
		t.Fatalf("%+v", list)
	}
	last := list[0].Stages[len(list[0].Stages)-1]
	if o := list[0]; o.Object != "pod" || !strings.HasSuffix(o.Name, "/p") || o.ID == "" || o.Times != 2 || !strings.Contains(o.Error, errFault.Error()) || last.Duration == 0 {
		t.Errorf("%+v", o)
	}
	for i := range 2 * maxFailures { // refused before there is anything
		spec := podSpec(fmt.Sprint("q", i), false)
		spec.Handler = "unknown"
		if _, err := n.Pods.Run(t.Context(), spec); err == nil {
			t.Fatal("a pod of an unknown handler")
		}
	}
	if list := n.Failures(); len(list) != maxFailures || !strings.HasSuffix(list[0].Name, fmt.Sprint("/q", 2*maxFailures-1)) {
		t.Errorf("%d: %+v", len(list), list[0])
	}
	if list := n.Pods.failures.since(time.Now().Add(time.Minute)); len(list) != 0 {
		t.Errorf("old ones: %+v", list)
	}

	if _, err := n.Pods.Run(t.Context(), podSpec("p", false)); !errors.Is(err, errFault) {
		t.Fatal(err)
	}
	f.setFault("", false)
	p, err := n.Pods.Run(t.Context(), podSpec("p", false))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range n.Failures() {
		if o.ID == p.ID || strings.HasSuffix(o.Name, "/p") {
			t.Errorf("after a success: %+v", o)
		}
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
