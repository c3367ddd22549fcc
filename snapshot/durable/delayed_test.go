package durable

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/berthd/berth/snapshot/durable/durabletest"
)

// TestReplaceDelayed: what Replace has written waits in memory, and so does not hold up the
// next Replace.
func TestReplaceDelayed(t *testing.T) {
	dir := t.TempDir()
	durabletest.NeedExt4(t, dir)
	delayed := func(replace func(path string, data []byte) error) (n int) {
		path := filepath.Join(dir, "f")
		for i := range 20 {
			if err := replace(path, fmt.Appendf(nil, "%05000d", i)); err != nil {
				t.Fatal(err)
			}
			if i > 0 && durabletest.Delayed(t, path) { // unless the kernel's own time has come
				n++
			}
		}
		return n
	}
	if n := delayed(func(path string, data []byte) error { return Replace(path, data, 0o600) }); n < 10 {
		t.Errorf("%d of 19 wait in memory", n)
	}
	if n := delayed(func(path string, data []byte) error {
		other := filepath.Join(dir, "other")
		if err := os.WriteFile(other, data, 0o600); err != nil {
			return err
		}
		return os.Rename(other, path)
	}); n > 9 {
		t.Logf("%d of 19 wait in memory with rename(2): auto_da_alloc is off", n)
	}
}

// TestSyncFilesAlone: what is asked for is on disk, and what is beside it still waits.
func TestSyncFilesAlone(t *testing.T) {
	dir := t.TempDir()
	durabletest.NeedExt4(t, dir)
	data := make([]byte, 5000)
	waits := 0
	for range 10 { // the kernel's own time may come at any
		for _, name := range []string{"asked", "other"} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := SyncFiles(t.Context(), dir, []string{"asked", "."}); err != nil {
			t.Fatal(err)
		}
		if durabletest.Delayed(t, filepath.Join(dir, "asked")) {
			t.Fatal("what was asked for waits in memory")
		}
		if durabletest.Delayed(t, filepath.Join(dir, "other")) {
			waits++
		}
		if err := os.Remove(filepath.Join(dir, "other")); err != nil {
			t.Fatal(err)
		}
	}
	if waits < 5 {
		t.Errorf("%d of 10 times the other file waits in memory", waits)
	}
}
