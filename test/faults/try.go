package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// A trying is one call that is made again and again until it succeeds, as kubelet does.
type trying struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when it has succeeded, or was given up

	mu  sync.Mutex
	err error // the last
}

// try begins. The caller waits.
func try(ctx context.Context, do func(context.Context) error) *trying {
	t := &trying{done: make(chan struct{})}
	ctx, t.cancel = context.WithCancel(ctx)
	go func() {
		defer close(t.done)
		for {
			err := do(ctx)
			if ctx.Err() != nil {
				return
			}
			t.mu.Lock()
			t.err = err
			t.mu.Unlock()
			if err == nil {
				return
			}
			pace(ctx, again)
		}
	}()
	return t
}

// isDone reports whether it has succeeded.
func (t *trying) isDone() bool {
	select {
	case <-t.done:
		return t.said() == ""
	default:
		return false
	}
}

// said is the last error's text.
func (t *trying) said() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		return ""
	}
	return t.err.Error()
}

// wait waits until it has succeeded, and gives it up after limit.
func (t *trying) wait(ctx context.Context, limit time.Duration) error {
	defer t.cancel()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-t.done:
		return nil
	case <-timer.C:
		t.cancel()
		<-t.done
		return fmt.Errorf("not within %s: %s", limit, t.said())
	case <-ctx.Done():
		return ctx.Err()
	}
}
