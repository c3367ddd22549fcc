package badinput

import (
	"os"
	"syscall"
	"testing"
)

// mountReadOnly makes dir a mount that nobody can write to.
func mountReadOnly(t *testing.T, dir string) {
	t.Helper()
	mountTmpfs(t, dir, syscall.MS_RDONLY, "size=64k")
}

// mountSmall makes dir a file system of the size given, such as 4m.
func mountSmall(t *testing.T, dir, size string) {
	t.Helper()
	mountTmpfs(t, dir, 0, "size="+size+",mode=711")
}

func mountTmpfs(t *testing.T, dir string, flags uintptr, options string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", flags, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, dir) })
}

func unmount(t *testing.T, dir string) {
	t.Helper()
	if err := syscall.Unmount(dir, 0); err != nil && err != syscall.EINVAL && err != syscall.ENOENT {
		t.Error(dir, err)
	}
}
