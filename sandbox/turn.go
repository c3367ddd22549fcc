package sandbox

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/berthd/berth/held"
)

// A turn orders the operations that change one pod or one container: one at a
// time, each in a goroutine of its own under its own deadline. A caller waits
// for an operation and may give up; the operation goes on. A caller who asks
// for the kind that is under way joins it and gets its result, which is what
// makes kubelet's retries after a timeout safe.
type turn struct {
	mu  sync.Mutex
	cur *flight
}

// undueTime is how long an operation may go on past its deadline, for undoing what it began;
// after that it is a case for the watchdog.
const undueTime = 2 * teardownLimit

// A flight is one operation under way.
type flight struct {
	kind  string
	since time.Time
	done  chan struct{} // closed when err is set
	err   error
}

// do runs op as the object's only operation, or joins one of the same kind.
// what names the object and trace its stage, for the error of a caller whose
// context ends first.
func (t *turn) do(ctx context.Context, what, kind string, limit time.Duration, trace *Trace, op func(context.Context) error) error {
	for {
		f, joined := t.take(ctx, what, kind, limit, op)
		select {
		case <-f.done:
			if joined {
				return f.err
			}
		case <-ctx.Done():
			return fmt.Errorf("%s: %s under way, at stage %q: %w", what, f.kind, trace.Current(), ctx.Err())
		}
	}
}

// take starts op when nothing is under way. Otherwise it returns what is, and
// whether that is of the same kind, so that its result is the caller's too.
func (t *turn) take(ctx context.Context, what, kind string, limit time.Duration, op func(context.Context) error) (f *flight, joined bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cur != nil {
		return t.cur, t.cur.kind == kind
	}
	f = &flight{kind: kind, since: time.Now(), done: make(chan struct{})}
	t.cur = f
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		held.Do(ctx, kind+" of "+what, limit+undueTime, func(ctx context.Context) { f.err = op(ctx) })
		t.mu.Lock()
		t.cur = nil
		t.mu.Unlock()
		close(f.done)
	}()
	return f, true
}

// now is the kind of the operation under way, "" without one, and when it began.
func (t *turn) now() (kind string, since time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cur == nil {
		return "", time.Time{}
	}
	return t.cur.kind, t.cur.since
}
