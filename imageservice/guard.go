package imageservice

import (
	"context"
	"sync"
)

// A guard keeps those who need a thing and those who remove it apart: layers and
// seals, by name. Holders share. The zero value is ready.
type guard struct {
	mu      sync.Mutex
	held    map[string]int
	leaving map[string]chan struct{} // being removed; closed when that is over
}

// hold keeps keys from being removed until release. It waits for removals under
// way: afterwards, look whether the things are still there. On an error nothing is held.
func (g *guard) hold(ctx context.Context, keys []string) error {
	g.mu.Lock()
	var waits []chan struct{}
	if g.held == nil {
		g.held = map[string]int{}
	}
	for _, k := range keys {
		g.held[k]++
		if c := g.leaving[k]; c != nil {
			waits = append(waits, c)
		}
	}
	g.mu.Unlock()
	for _, c := range waits {
		select {
		case <-c:
		case <-ctx.Done():
			g.release(keys)
			return ctx.Err()
		}
	}
	return nil
}

// release undoes hold.
func (g *guard) release(keys []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, k := range keys {
		if g.held[k]--; g.held[k] == 0 {
			delete(g.held, k)
		}
	}
}

// take reserves for removal those of keys that nobody holds or removes and that
// needed, called under the guard's lock, does not want. Pass the result to left.
func (g *guard) take(keys []string, needed func(key string) bool) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.leaving == nil {
		g.leaving = map[string]chan struct{}{}
	}
	var taken []string
	for _, k := range keys {
		if g.held[k] > 0 || g.leaving[k] != nil || needed(k) {
			continue
		}
		g.leaving[k] = make(chan struct{})
		taken = append(taken, k)
	}
	return taken
}

// left ends what take began.
func (g *guard) left(keys []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, k := range keys {
		close(g.leaving[k])
		delete(g.leaving, k)
	}
}
