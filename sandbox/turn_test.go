package sandbox

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// replaceWords spells a CRI real-time signal as images do.
func replaceWords(name string) string {
	return strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(name)
}

// Callers of the same kind get one run's result; the caller who gives up does
// not end it, and learns its stage.
func TestTurnJoins(t *testing.T) {
	var tn turn
	var trace Trace
	var runs atomic.Int32
	began, let := make(chan struct{}), make(chan struct{})
	op := func(context.Context) error {
		return trace.run(t.Context(), "network", func() error {
			if runs.Add(1) == 1 {
				close(began)
			}
			<-let
			return ErrNameTaken
		})
	}
	gone, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() { first <- tn.do(gone, "pod x", "creation", time.Hour, &trace, op) }()
	<-began
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), `"network"`) {
		t.Errorf("a caller who gave up: %v", err)
	}
	var wg sync.WaitGroup
	started := make(chan struct{}, 3)
	for range 3 {
		wg.Go(func() {
			f, joined := tn.take(t.Context(), "x", "creation", time.Hour, op)
			started <- struct{}{}
			if <-f.done; !joined || !errors.Is(f.err, ErrNameTaken) {
				t.Errorf("joined=%t, %v", joined, f.err)
			}
		})
	}
	for range 3 {
		<-started
	}
	close(let)
	wg.Wait()
	if n := runs.Load(); n != 1 {
		t.Errorf("ran %d times", n)
	}
}

// Another kind waits its turn, and an operation has its own deadline.
func TestTurnOrders(t *testing.T) {
	var tn turn
	var trace Trace
	began, let := make(chan struct{}), make(chan struct{})
	go func() {
		_ = tn.do(t.Context(), "x", "creation", time.Hour, &trace, func(context.Context) error {
			close(began)
			<-let
			return nil
		})
	}()
	<-began
	late, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tn.do(late, "x", "stop", time.Hour, &trace, func(context.Context) error { t.Error("ran beside another"); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("do = %v", err)
	}
	close(let)
	err := tn.do(t.Context(), "x", "stop", time.Nanosecond, &trace, func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("do = %v, want the operation's own deadline", err)
	}
}
