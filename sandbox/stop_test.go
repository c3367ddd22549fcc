package sandbox

import (
	"errors"
	"testing"
)

// TestEndBeforeTheStart has a container's first process end before anybody starts
// it, as a seccomp profile that forbids everything makes it: a start that failed, and
// says so.
func TestEndBeforeTheStart(t *testing.T) {
	f := newFakeNode(t)
	n := f.open(t, t.TempDir())
	defer n.Close()
	p, err := n.Pods.Run(t.Context(), podSpec("p", false))
	if err != nil {
		t.Fatal(err)
	}
	podID := p.ID
	c, err := n.Containers.Create(t.Context(), podID, containerSpec("c", "image"))
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.endLocked(c.ID, 159)
	f.mu.Unlock()
	within(t, "its exit is on record", func() bool {
		k, err := n.Containers.Get(c.ID)
		return err == nil && k.Record().State == Exited
	})
	k, _ := n.Containers.Get(c.ID)
	if r := k.Record(); r.Reason != ReasonStartError || r.ExitCode != 159 || r.Message == "" {
		t.Errorf("%s, %d, %q", r.Reason, r.ExitCode, r.Message)
	}
	if err := n.Containers.Start(t.Context(), c.ID); !errors.Is(err, ErrBadState) {
		t.Errorf("start: %v, want ErrBadState", err)
	}
	if s := k.Stages(); len(s) == 0 || k.Record().Stages[len(k.Record().Stages)-1].Duration == 0 {
		t.Errorf("stages on record: %+v", k.Record().Stages)
	}
	if err := n.Pods.Remove(t.Context(), podID); err != nil {
		t.Error(err)
	}
}
