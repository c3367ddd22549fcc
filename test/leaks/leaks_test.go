package leaks_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/test/leaks"
)

// TestSince makes one thing of several kinds and expects to be told of each.
func TestSince(t *testing.T) {
	if os.Geteuid() != 0 {
		if testing.Short() {
			t.Skip("needs root")
		}
		t.Fatal("needs root")
	}
	ctx := t.Context()
	if err := leaks.Adopt(ctx); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	before, err := leaks.Take(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v: %s", args, err, out)
		}
	}
	file := filepath.Join(dir, "left")
	run("touch", file)
	run("mount", "--bind", file, file)
	run("ip", "link", "add", "leaktest0", "type", "bridge")
	run("sh", "-c", "sleep 1000 >/dev/null 2>&1 &") // an orphan at once
	now, err := leaks.Take(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	diff := strings.Join(now.Since(before), "\n")
	for _, want := range []string{"file: " + file, "mount: " + file, "interface: leaktest0", "process: sleep"} {
		if !strings.Contains(diff, want) {
			t.Errorf("no %q in\n%s", want, diff)
		}
	}
	run("umount", file)
	run("rm", file)
	run("ip", "link", "del", "leaktest0")
	for line := range strings.Lines(diff) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == "sleep" {
			run("kill", f[2])
		}
	}
	theirs := func(l string) bool {
		return !strings.Contains(l, dir) && !strings.Contains(l, "leaktest0") && !strings.Contains(l, "process: sleep")
	}
	left, err := leaks.Check(ctx, before, 5*time.Second, theirs, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range left {
		t.Error("still", l)
	}
}
