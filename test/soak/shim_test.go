package main

import (
	"context"
	"slices"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// TestDeadShim: a shim that dies when all its containers have ended has no successor. What it has
// on record stays for as long as they are listed, and is theirs.
func TestDeadShim(t *testing.T) {
	if testing.Short() {
		t.Skip("needs root")
	}
	m := opened(t)
	slot := m.slots[0]
	slot.number = 1 // one that shares no PID namespace: nothing but the two containers is kept
	m.run(t.Context(), slot)
	for name, c := range slot.pod.containers {
		if _, err := m.client.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: c.id}); err != nil {
			t.Fatal(name, err)
		}
		c.exited = true
	}
	before, err := m.shims()
	if err != nil || len(before) == 0 {
		t.Fatal(before, err)
	}
	for _, pid := range before {
		if err := kill(pid); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(10 * time.Second); len(before) > 0; time.Sleep(20 * time.Millisecond) {
		if before, err = m.shims(); err != nil || time.Now().After(end) {
			t.Fatal(before, err)
		}
	}
	err = m.look(t.Context())
	if m.remove(t.Context(), slot); err == nil {
		err = m.look(t.Context()) // it goes with them
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range m.found() {
		t.Error(f)
	}
}

// opened is a node for a pod, until the test is over.
func opened(t *testing.T) *motion {
	t.Helper()
	s, err := options([]string{"-pods", "1"})
	if err != nil {
		t.Fatal(err)
	}
	w, err := node.NewWorld(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	clean := context.WithoutCancel(t.Context())
	t.Cleanup(func() {
		if err := w.Close(clean); err != nil {
			t.Error(err)
		}
	})
	m := &motion{setting: s, world: w}
	closing, err := m.open(t.Context())
	t.Cleanup(func() {
		for _, c := range slices.Backward(closing) {
			if err := c(); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}
