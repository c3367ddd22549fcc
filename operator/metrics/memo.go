package metrics

import "sync"

// A memo keeps the figures of each set of labels, so that finding them again costs a look into
// a map and no memory. Keys are of a fixed few. Set fresh before use.
type memo[K comparable, V any] struct {
	fresh func(K) V

	mu   sync.RWMutex
	kept map[K]V // guarded by mu
}

func (m *memo[K, V]) get(k K) V {
	m.mu.RLock()
	v, ok := m.kept[k]
	m.mu.RUnlock()
	if ok {
		return v
	}
	v = m.fresh(k)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kept == nil {
		m.kept = map[K]V{}
	}
	m.kept[k] = v
	return v
}
