package shim

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestExpectationMovesNothing: the process is a member of what it is written to, and stays
// where it is in every hierarchy.
func TestExpectationMovesNothing(t *testing.T) {
	dir, err := ownCgroup()
	if errors.Is(err, errNoHierarchy) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	members := readText(t, filepath.Join(dir, "cgroup.procs"))
	if !slices.Contains(strings.Fields(members), strconv.Itoa(os.Getpid())) {
		t.Errorf("%q does not name this process", dir)
	}
	before := readText(t, "/proc/self/cgroup")
	if err := stay(); err != nil {
		t.Fatal(err)
	}
	if after := readText(t, "/proc/self/cgroup"); after != before {
		t.Errorf("in %q, before in %q", after, before)
	}
}

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
