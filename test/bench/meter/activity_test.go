package meter

import "testing"

// TestActivitySub has a thread end and another begin meanwhile: what was done before counts for neither.
func TestActivitySub(t *testing.T) {
	var before, after Activity
	before.add(1, Activity{CPU: 5, Switches: 1})
	before.add(2, Activity{CPU: 100, Switches: 90})
	after.add(1, Activity{CPU: 7, Switches: 1})
	after.add(3, Activity{CPU: 4, Switches: 2})
	if did := after.Sub(before); did.CPU != 6 || did.Switches != 2 {
		t.Errorf("%+v, want 6 ns and 2 switches", did)
	}
}
