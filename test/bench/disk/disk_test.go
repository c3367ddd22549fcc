package disk_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthd/berth/test/bench/disk"
)

// TestNew wants a file system with a journal, and nothing left of it.
func TestNew(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	d, err := disk.New(t.Context(), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	device := ""
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); f[1] == d.Dir && f[2] == "ext4" {
			device = f[0]
		}
	}
	if device == "" {
		t.Fatalf("no ext4 on %s", d.Dir)
	}
	if _, err := os.Stat(filepath.Join("/proc/fs/jbd2", filepath.Base(device)+"-8")); err != nil {
		t.Errorf("no journal: %v", err)
	}
	if err := os.WriteFile(filepath.Join(d.Dir, "file"), []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
	if err := d.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if backing, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(device), "loop/backing_file")); err == nil && strings.Contains(string(backing), tmp) {
		t.Errorf("%s is still in use", device)
	}
	t.Setenv("TMPDIR", filepath.Join(tmp, "nowhere"))
	if _, err := disk.New(t.Context(), 64<<20); err == nil {
		t.Error("made where there is no folder")
	}
}
