package keeper

import "testing"

// TestStay: a shim that another program is to take over does not end when its last caller leaves, and one that
// ends is not taken over.
func TestStay(t *testing.T) {
	k := &Keeper{idle: make(chan struct{})}
	ended := func() bool {
		select {
		case <-k.idle:
			return true
		default:
			return false
		}
	}
	k.connected(1)
	if !k.stay() {
		t.Fatal("it is taken for one that ends")
	}
	k.connected(-1)
	if ended() {
		t.Error("it ended under the program that takes over")
	}
	k.mayEnd()
	if !ended() {
		t.Error("it goes on for nobody")
	}
	if k.stay() {
		t.Error("it is taken over while it ends")
	}
}
