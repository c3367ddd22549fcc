package rest

import (
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
