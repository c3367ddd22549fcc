package snapshot

import (
	"context"
	"errors"
	"sync"
	"testing"
)

// TestKeyLocks: one at a time for a key, others beside them, and nothing is kept of either.
func TestKeyLocks(t *testing.T) {
	var k keyLocks
	unlock, err := k.lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	other, err := k.lock(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	other()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.lock(ended, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("waited for longer than the context: %v", err)
	}
	var wait sync.WaitGroup
	inside, most := 0, 0
	for range 100 {
		wait.Go(func() {
			unlock, err := k.lock(t.Context(), "a")
			if err != nil {
				t.Error(err)
				return
			}
			defer unlock()
			inside++
			most = max(most, inside)
			inside--
		})
	}
	unlock()
	wait.Wait()
	if most != 1 || len(k.held) != 0 {
		t.Errorf("%d at once, %d keys are left", most, len(k.held))
	}
}

// TestMountingWaits: who waits for an image that another is mounting waits no longer than
// the caller wants.
func TestMountingWaits(t *testing.T) {
	o, chain := manyLayers(t, 1)
	b := o.format.(*blobs)
	seal, err := sealName(chain)
	if err != nil {
		t.Fatal(err)
	}
	o.use("c1", []string{seal})
	unlock, err := b.mounting.lock(t.Context(), seal) // c1 mounts it
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := o.Prepare(ended, "c2", chain); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	unlock()
	if _, err := o.Prepare(t.Context(), "c2", chain); err != nil {
		t.Error(err)
	}
	for _, id := range []string{"c1", "c2"} {
		if err := o.Remove(ended, id); err != nil && !errors.Is(err, context.Canceled) { // its files may stay
			t.Error(err)
		}
	}
	if exists(b.path(mountsDir, seal)) || len(b.mounting.held) != 0 {
		t.Errorf("it is still mounted, or locked: %v", b.mounting.held)
	}
}
