package node

import (
	"testing"
	"time"
)

// Eventually waits for what nobody tells of.
func Eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	limit := Patience(40 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(limit); !is(); {
		select {
		case <-tick.C:
		case <-end:
			t.Errorf("not within %v: %s", limit, what)
			return
		}
	}
}
