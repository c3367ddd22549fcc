package sandbox

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// A table finds objects by ID, by a unique prefix of it, and by name. Lookups by
// ID take no lock.
type table[T comparable] struct {
	byID sync.Map // string → T

	// changes counts what comes and goes, and the changes of what there is, once they are seen.
	changes atomic.Uint64

	mu     sync.Mutex
	byName map[string]T // guarded by mu
}

// claim returns the object of that name, or makes it with fresh and keeps it.
func (t *table[T]) claim(name string, fresh func() (T, error)) (obj T, isNew bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if obj, ok := t.byName[name]; ok {
		return obj, false, nil
	}
	if obj, err = fresh(); err != nil {
		return obj, false, err
	}
	if t.byName == nil {
		t.byName = map[string]T{}
	}
	t.byName[name] = obj
	return obj, true, nil
}

// put makes the object findable by its ID.
func (t *table[T]) put(id string, obj T) {
	t.byID.Store(id, obj)
	t.changes.Add(1)
}

// drop forgets the object, and tells whether it could be found by its ID. An ID
// that is not there is fine, and so is a name that is not there or is another's
// by now.
func (t *table[T]) drop(id, name string, obj T) (known bool) {
	_, known = t.byID.LoadAndDelete(id)
	t.changes.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byName[name] == obj {
		delete(t.byName, name)
	}
	return known
}

// find returns the object with that ID, or the one whose ID it is a prefix of.
func (t *table[T]) find(id string) (obj T, err error) {
	if id == "" {
		return obj, fmt.Errorf("empty ID: %w", ErrNotFound)
	}
	if v, ok := t.byID.Load(id); ok {
		return v.(T), nil
	}
	found := 0
	t.byID.Range(func(k, v any) bool {
		if strings.HasPrefix(k.(string), id) {
			obj = v.(T)
			found++
		}
		return found < 2
	})
	switch found {
	case 0:
		return obj, fmt.Errorf("ID %q: %w", id, ErrNotFound)
	case 1:
		return obj, nil
	default:
		return obj, fmt.Errorf("ID %q: %w", id, ErrAmbiguous)
	}
}

// all returns every object, in no order.
func (t *table[T]) all() []T {
	var list []T
	t.byID.Range(func(_, v any) bool {
		list = append(list, v.(T))
		return true
	})
	return list
}

// named returns every object that has a name, in no order: those too that cannot be found
// by their ID yet.
func (t *table[T]) named() []T {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Values(t.byName))
}

// newID returns 64 hexadecimal digits, as CRI clients expect of an ID.
func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// isID tells whether newID can have made a name.
func isID(name string) bool {
	return len(name) == 64 && strings.Trim(name, "0123456789abcdef") == ""
}
