package sandbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthd/berth/netns"
	"github.com/berthd/berth/shim"
	"github.com/berthd/berth/snapshot"
)

// tried is a Readiness with one stage and a clock of the test's.
func tried(t *testing.T, do func() error) (r *Readiness, pass func(time.Duration)) {
	now := time.Now()
	var mu sync.Mutex
	r = &Readiness{base: t.Context(), stages: []selfTestStage{{"try", func(context.Context) error { return do() }}}}
	r.background = func(work func(context.Context)) { go work(context.WithoutCancel(t.Context())) }
	r.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	return r, func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }
}

// The self-test runs when evidence is old, turns the condition, and turns it back.
func TestReadinessFollowsTheSelfTest(t *testing.T) {
	results := make(chan error, 4)
	r, pass := tried(t, func() error { return <-results })
	results <- nil
	r.first(t.Context())
	if p := r.Problem(); p != nil {
		t.Fatalf("at first: %+v", p)
	}
	results <- errFault
	pass(evidenceAge + time.Second)
	within(t, "the failure is seen", func() bool { p := r.Problem(); return p != nil && p.Reason == "SelfTestFailed" })
	if p := r.Problem(); !strings.Contains(p.Message, "cannot try") {
		t.Errorf("message is %q", p.Message)
	}
	for range 2 { // one that fails is tried again whenever somebody asks
		results <- nil
	}
	within(t, "it works again", func() bool { return r.Problem() == nil })
}

// A self-test that hangs says what it waits for, and nobody waits for it.
func TestReadinessHangs(t *testing.T) {
	hung := make(chan error)
	defer close(hung)
	r, pass := tried(t, func() error { return <-hung })
	pass(time.Hour)
	if p := r.Problem(); p != nil {
		t.Errorf("while it has time left: %+v", p)
	}
	pass(selfTestLimit + time.Second)
	if p := r.Problem(); p == nil || p.Reason != "SelfTestHangs" {
		t.Errorf("when it hangs: %+v", p)
	}
}

// Creations count when the node is to blame, and only then.
func TestReadinessFromCreations(t *testing.T) {
	r, pass := tried(t, func() error { return nil })
	r.first(t.Context())
	fail := func(step string, err error) {
		for range failuresInARow {
			r.creation(&stepError{step, fmt.Errorf("x: %w", err)})
		}
	}
	for step, err := range map[string]error{"network": errFault, "image": errFault, "task": shim.ErrRefused, "namespaces": netns.ErrInvalidSysctl, "snapshot": snapshot.ErrDamaged} {
		if fail(step, err); r.Problem() != nil {
			t.Errorf("%s: %v counts", step, err)
		}
	}
	r.creation(errors.New("no step"))
	fail("task", shim.ErrNoAnswer)
	if p := r.Problem(); p == nil || p.Reason != "CreationsFail" {
		t.Errorf("after failures of the node: %+v", p)
	}
	pass(failureAge)
	within(t, "old failures are forgotten", func() bool { return r.Problem() == nil })
	fail("snapshot", errFault)
	r.creation(nil)
	if p := r.Problem(); p != nil {
		t.Errorf("after one that worked: %+v", p)
	}
}
