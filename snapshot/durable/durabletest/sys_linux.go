// Package durabletest tells tests what has reached the disk. It keeps nothing.
package durabletest

import (
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// NeedExt4 skips the test unless dir is on ext4, of whose files Delayed tells.
func NeedExt4(t testing.TB, dir string) {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type != unix.EXT4_SUPER_MAGIC {
		t.Skip("FIEMAP tells of ext4's files whether they wait in memory, and TMPDIR is of another kind")
	}
}

// Delayed tells whether the file has no place on the disk yet: FIEMAP of linux/fiemap.h.
func Delayed(t testing.TB, path string) bool {
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
