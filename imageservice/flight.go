package imageservice

import (
	"context"
	"sync"
)

// flights runs one piece of work per key at a time; whoever asks for a key
// meanwhile gets the same result. The work outlives its askers' contexts until the
// last of them has gone; then it is cancelled. The zero value is ready.
type flights[K comparable, V any] struct {
	mu      sync.Mutex
	flying  map[K]*flight[V]
	running sync.WaitGroup
}

type flight[V any] struct {
	cancel context.CancelFunc
	askers int           // guarded by flights.mu; 0: abandoned, about to end
	done   chan struct{} // closed when val and err are set
	val    V
	err    error
}

// do returns the result of work for key, which this call or another began (led
// tells), or ctx's error when that comes first.
func (fs *flights[K, V]) do(ctx context.Context, key K, work func(context.Context) (V, error)) (val V, led bool, err error) {
	for {
		f, led := fs.join(ctx, key, work)
		abandoned := f.askers == 0 && !led
		fs.mu.Unlock()

		select {
		case <-f.done:
			if abandoned {
				continue // it was cancelled by others; begin anew
			}
			return f.val, led, f.err
		case <-ctx.Done():
			if !abandoned {
				fs.leave(f)
			}
			return val, led, ctx.Err()
		}
	}
}

// join finds or begins the flight of key and counts the caller in, unless the
// flight is abandoned. It returns with fs.mu locked.
func (fs *flights[K, V]) join(ctx context.Context, key K, work func(context.Context) (V, error)) (f *flight[V], led bool) {
	fs.mu.Lock()
	if f := fs.flying[key]; f != nil {
		if f.askers > 0 {
			f.askers++
		}
		return f, false
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f = &flight[V]{cancel: cancel, askers: 1, done: make(chan struct{})}
	if fs.flying == nil {
		fs.flying = map[K]*flight[V]{}
	}
	fs.flying[key] = f
	fs.running.Go(func() {
		defer cancel()
		f.val, f.err = work(ctx)
		fs.mu.Lock()
		delete(fs.flying, key)
		fs.mu.Unlock()
		close(f.done)
	})
	return f, true
}

func (fs *flights[K, V]) leave(f *flight[V]) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.askers--; f.askers == 0 {
		f.cancel()
	}
}

// close cancels what flies and waits for it.
func (fs *flights[K, V]) close() {
	fs.mu.Lock()
	for _, f := range fs.flying {
		f.cancel()
	}
	fs.mu.Unlock()
	fs.running.Wait()
}
