package snapshot

import (
	"context"
	"sync"

	"github.com/berthd/berth/held"
)

// A keyLocks has things done one after the other for one key. The zero value is ready. Who
// has one and who waits for one is in package held.
type keyLocks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when it is free
}

// lock waits for its turn, or the context's end. Call what it returns.
func (k *keyLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		k.mu.Lock()
		taken := k.held[key]
		if taken == nil {
			if k.held == nil {
				k.held = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			k.held[key] = mine
			k.mu.Unlock()
			end := held.Begin(ctx, held.Lock, "snapshots: "+key)
			return func() {
				end()
				k.mu.Lock()
				defer k.mu.Unlock()
				delete(k.held, key)
				close(mine)
			}, nil
		}
		k.mu.Unlock()
		end := held.Begin(ctx, held.Wait, "snapshots: "+key)
		select {
		case <-taken:
			end()
		case <-ctx.Done():
			end()
			return nil, ctx.Err()
		}
	}
}
