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
		"pod accept true false": 1, "container accept true false": 2,
		"pod network true false": 1, "container start true false": 1, "container task true false": 1,
		"container record true false": 2, "container image true true": 1, "container undo record true false": 2,
		"pod undo network true false": 2, // by the stop that a removal begins with, and again
	} {
		if n := len(slices.DeleteFunc(slices.Clone(d.lines), func(l string) bool { return l != want })); n != times {
			t.Errorf("%q: %d times in %q", want, n, d.lines)
		}
	}
}

// TestStagesAreKept: the next daemon finds every stage of what was made, with what it took.
func TestStagesAreKept(t *testing.T) {
	t.Run("runs", func(t *testing.T) { stagesAreKept(t, false) })
	t.Run("ends before its start is noted", func(t *testing.T) { stagesAreKept(t, true) })
}

func stagesAreKept(t *testing.T, ends bool) {
	t.Helper()
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	if ends {
		f.onStart = func(id string) {
			f.mu.Lock()
			f.endLocked(id, 3)
			f.mu.Unlock()
			if c, err := n.Containers.Get(id); err == nil {
				<-c.exited
			}
		}
	}
	podID, id := full(t, n, "p", false)
	n.Close()
	n = f.open(t, dir)
	defer n.Close()
	p, err := n.Pods.Get(podID)
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.Containers.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range []struct {
		is   []Stage
		want []string
	}{
		{p.Stages(), append([]string{"accept"}, stepNames...)},
		{c.Stages(), []string{"accept", "record", "image", "snapshot", "image volumes", "spec", "task", "created", "start"}},
	} {
		var names []string
		for _, s := range of.is {
			names = append(names, s.Name)
			if s.Duration <= 0 {
				t.Errorf("%s: took %v", s.Name, s.Duration)
			}
		}
		if !slices.Equal(names, of.want) {
			t.Errorf("%q, want %q", names, of.want)
		}
	}
	if err := n.Pods.Remove(t.Context(), podID); err != nil {
		t.Error(err)
	}
}
