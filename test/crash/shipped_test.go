package crash

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestShipped builds berthd as it is shipped but for its symbols, and finds nothing of crash
// points in it.
func TestShipped(t *testing.T) {
	if testing.Short() {
		t.Skip("links berthd")
	}
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "berthd")
	run(t, repo, "CGO_ENABLED=0", "go", "build", "-trimpath", "-buildvcs=false", "-o", path, "./cmd/berthd")
	if found := traces(t, path); len(found) > 0 {
		t.Errorf("berthd has %q", found)
	}
	if with := filepath.Join(withPoints(t, repo), "berthd"); len(traces(t, with)) != 2 {
		t.Errorf("%s, which has them, has %q", with, traces(t, with))
	}
}

// traces are what a program has of crash points: a function, and a point's name.
func traces(t *testing.T, path string) (found []string) {
	t.Helper()
	symbols, err := exec.CommandContext(t.Context(), "go", "tool", "nm", path).Output()
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, in := range map[string][]byte{"berthd/berth/crashpoint.": symbols, "half written": program} {
		if bytes.Contains(in, []byte(what)) {
			found = append(found, what)
		}
	}
	return found
}
