package shim

import "testing"

// A shim that hands out nothing is told nothing, and what it would have been told stays known.
func TestTellNobody(t *testing.T) {
	var e escrow
	e.tell("c1", 9)
	if e.told["c1"] != 9 {
		t.Errorf("told = %v", e.told)
	}
	e.close()
}
