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
	path := filepath.Join(t.TempDir(), "berthd")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", path, "./cmd/berthd")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if found := traces(t, path); len(found) > 0 {
		t.Errorf("berthd has %q", found)
	}
	if with := filepath.Join("../../.cache/crash/bin", "berthd"); len(traces(t, with)) != 2 {
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
