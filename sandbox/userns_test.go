package sandbox

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestUserNamespaceTrial fails at first and succeeds later: the failure stands for a
// while, then one trial behind the back of those who ask ends it.
func TestUserNamespaceTrial(t *testing.T) {
	var trial userNSTrial
	err := errors.New("too many namespaces")
	tried := 0
	var later []func(context.Context)
	trial.first(t.Context(), func(f func(context.Context)) { later = append(later, f) }, func(context.Context) error {
		tried++
		return err
	})
	if got := trial.missing(); !errors.Is(got, err) || len(later) != 0 {
		t.Fatalf("%v, %d trials under way; want %v, none", got, len(later), err)
	}
	err = nil
	trial.at = time.Now().Add(-2 * tryPause)
	for range 3 {
		if trial.missing() == nil {
			t.Fatal("the failure is forgotten before the next trial's answer")
		}
	}
	if len(later) != 1 {
		t.Fatalf("%d trials under way, want 1", len(later))
	}
	later[0](t.Context())
	if got := trial.missing(); got != nil || tried != 2 {
		t.Fatalf("%v after %d trials, want nil after 2", got, tried)
	}
}
