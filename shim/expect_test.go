package shim

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
)

// TestExpectationMovesNothing: the process is a member of what it is written to, and stays
// where it is in every hierarchy.
func TestExpectationMovesNothing(t *testing.T) {
	if cgroups.IsCgroup2UnifiedMode() {
		t.Skip("cgroup version 2 alone")
	}
	var e expectation
	before := ownCgroups(t)
	if err := e.move(); err != nil {
		t.Fatal(err)
	}
	if after := ownCgroups(t); after != before {
		t.Errorf("in %q, before in %q", after, before)
	}
	members, err := os.ReadFile(e.procs)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(strings.Fields(string(members)), strconv.Itoa(os.Getpid())) {
		t.Errorf("%q does not name this process", e.procs)
	}
}

func ownCgroups(t *testing.T) string {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
