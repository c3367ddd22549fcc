package sandbox

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// A diary is what an observer of stages is told.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) Stage(object, stage string, took time.Duration, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprint(object, " ", stage, " ", took > 0, " ", err != nil))
}

// TestStagesAreTold: of pods and containers that are made, and of those that were there at the
// start, each stage is told of as often as it is gone through.
func TestStagesAreTold(t *testing.T) {
	f, dir, d := newFakeNode(t), t.TempDir(), &diary{}
	o := f.options(dir)
	o.Stages = d
	n, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	podID, id := full(t, n, "p", false)
	if _, err := n.Containers.Create(t.Context(), podID, containerSpec("none", "missing")); err == nil {
		t.Error("without an image")
	}
	n.Close()
	if n, err = Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := n.Containers.Remove(t.Context(), id); err != nil {
		t.Error(err)
	}
	if err := n.Pods.Remove(t.Context(), podID); err != nil {
		t.Error(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for want, times := range map[string]int{
		"pod network true false": 1, "container start true false": 1, "container task true false": 1,
		"container record true false": 2, "container image true true": 1, "container undo record true false": 2,
		"pod undo network true false": 2, // by the stop that a removal begins with, and again
	} {
		if n := len(slices.DeleteFunc(slices.Clone(d.lines), func(l string) bool { return l != want })); n != times {
			t.Errorf("%q: %d times in %q", want, n, d.lines)
		}
	}
}
