package main

import "testing"

// TestDemo is make demo without containerd: it shows what there is, in the forms that crictl and berth
// have today, and leaves nothing.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("needs root")
	}
	t.Setenv("DEMO_COMPARE", "0")
	t.Setenv("DEMO_IMAGE", "") // its own
	if err := run(t.Context()); err != nil {
		t.Fatal(err)
	}
}
