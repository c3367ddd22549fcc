package rest

import (
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestRest: it is taken once, after the last of what was done, and again after more.
func TestRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var taken atomic.Int64
		r := newRest(func() { taken.Add(1) })
		expect := func(after time.Duration, want int64) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if got := taken.Load(); got != want {
				t.Errorf("taken %d times, want %d", got, want)
			}
		}
		expect(2*After, 0) // nothing was done
		r.PutOff()
		expect(After-1, 0)
		r.PutOff()
		expect(After-1, 0)
		expect(1, 1)
		expect(2*After, 1)
		r.PutOff()
		expect(After, 2)
	})
	Rest{}.PutOff()
}

// TestAfterCollections: each collection is told of, not only the first.
func TestAfterCollections(t *testing.T) {
	told := make(chan struct{}, 1)
	afterCollections(func() { told <- struct{}{} })
	for i := range 3 {
		runtime.GC()
		select {
		case <-told:
		case <-time.After(10 * time.Second):
			t.Fatalf("not told of collection %d", i+1)
		}
	}
	go func() {
		for range told { // of what comes after the test, so that nobody waits
		}
	}()
}
