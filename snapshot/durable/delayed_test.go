package durable

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestReplaceDelayed: what Replace has written waits in memory, and so does not hold up the
// next Replace.
func TestReplaceDelayed(t *testing.T) {
	dir := t.TempDir()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type != unix.EXT4_SUPER_MAGIC {
		t.Skip("only ext4 writes what is renamed over a file, and TMPDIR is of another kind")
	}
	delayed := func(replace func(path string, data []byte) error) (n int) {
		path := filepath.Join(dir, "f")
		for i := range 20 {
			if err := replace(path, fmt.Appendf(nil, "%05000d", i)); err != nil {
				t.Fatal(err)
			}
			if i > 0 && isDelayed(t, path) { // unless the kernel's own time has come
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

// isDelayed tells whether the file has no place on the disk yet: FIEMAP of linux/fiemap.h.
func isDelayed(t *testing.T, path string) bool {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var arg struct {
		start, length                   uint64
		flags, mapped, count, reserved  uint32
		logical, physical, extentLength uint64
		_                               [2]uint64
		extentFlags                     uint32
		_                               [3]uint32
	}
	arg.length, arg.count = 1<<62, 1
	const fiemap, delalloc = 0xc020660b, 0x4
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fiemap, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		t.Fatal(errno)
	}
	return arg.extentFlags&delalloc != 0
}

// TestSyncFilesAlone: what is asked for is on disk, and what is beside it still waits.
func TestSyncFilesAlone(t *testing.T) {
	dir := t.TempDir()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type != unix.EXT4_SUPER_MAGIC {
		t.Skip("FIEMAP tells of ext4's files whether they wait in memory, and TMPDIR is of another kind")
	}
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
		if isDelayed(t, filepath.Join(dir, "asked")) {
			t.Fatal("what was asked for waits in memory")
		}
		if isDelayed(t, filepath.Join(dir, "other")) {
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
