package snapshot

import (
	"context"
	"sync"
)

// A keyLocks has things done one after the other for one key. The zero value is ready.
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
			return func() {
				k.mu.Lock()
				defer k.mu.Unlock()
				delete(k.held, key)
				close(mine)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-taken:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
