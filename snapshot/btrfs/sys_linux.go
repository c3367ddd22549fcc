// Package btrfs makes and removes subvolumes, by the calls of linux/btrfs.h. Both may be
// called again after a crash: making what is there is fs.ErrExist, and removing what is not
// fs.ErrNotExist.
package btrfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls, as linux/btrfs.h numbers them: BTRFS_IOCTL_MAGIC, and the size of what they take.
const (
	magic       = 0x94
	write       = 1 << 30 // _IOW
	create      = write | unsafe.Sizeof(volArgs{})<<16 | magic<<8 | 14
	destroy     = write | unsafe.Sizeof(volArgs{})<<16 | magic<<8 | 15
	snapshot    = write | unsafe.Sizeof(volArgsV2{})<<16 | magic<<8 | 23
	setFlags    = write | unsafe.Sizeof(uint64(0))<<16 | magic<<8 | 26
	firstObject = 256 // BTRFS_FIRST_FREE_OBJECTID: the inode of a subvolume's root
)

// volArgs is struct btrfs_ioctl_vol_args.
type volArgs struct {
	_    int64
	name [4088]byte
}

// volArgsV2 is struct btrfs_ioctl_vol_args_v2.
type volArgsV2 struct {
	fd   int64
	_    [6]uint64 // transid, flags and what is not used yet
	name [4040]byte
}

// Is tells whether the directory dir is on a file system of btrfs.
func Is(dir string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return st.Type == unix.BTRFS_SUPER_MAGIC, nil
}

// IsRoot tells whether the directory name in the open directory dir, whose inode is known,
// is a subvolume.
func IsRoot(dir int, ino uint64) bool {
	var st unix.Statfs_t
	return ino == firstObject && unix.Fstatfs(dir, &st) == nil && st.Type == unix.BTRFS_SUPER_MAGIC
}

// Create makes an empty subvolume at path.
func Create(path string) error {
	args := volArgs{}
	return at(path, func(dir int, name string) error {
		copy(args.name[:len(args.name)-1], name)
		return ioctl(dir, create, unsafe.Pointer(&args))
	})
}

// Snapshot makes a subvolume at path that has what the one at from has. It waits for the
// file system's transaction, as the kernel has no other way.
func Snapshot(from, path string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	args := volArgsV2{fd: int64(source.Fd())}
	return at(path, func(dir int, name string) error {
		copy(args.name[:len(args.name)-1], name)
		return ioctl(dir, snapshot, unsafe.Pointer(&args))
	})
}

// Destroy removes the subvolume name, one component, in the open directory dir, with all
// that is in it. One that has other subvolumes in it is unix.ENOTEMPTY, and can be changed
// from then on.
func Destroy(dir int, name string) error {
	parent, err := reopen(dir, ".")
	if err != nil {
		return err
	}
	defer parent.Close()
	args := volArgs{}
	copy(args.name[:len(args.name)-1], name)
	err = ioctl(int(parent.Fd()), destroy, unsafe.Pointer(&args))
	if errors.Is(err, unix.ENOTEMPTY) {
		if root, opened := reopen(dir, name); opened == nil { // who made it may have made it read-only
			var none uint64
			_ = ioctl(int(root.Fd()), setFlags, unsafe.Pointer(&none)) // else what is in it stays, which is told
			root.Close()
		}
	}
	if err != nil {
		return &fs.PathError{Op: "remove subvolume", Path: name, Err: err}
	}
	return nil
}

// reopen opens the directory name in dir, which may be open as a path alone, for calls.
func reopen(dir int, name string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// at calls f with the directory that path is in, and its name there.
func at(path string, f func(dir int, name string) error) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := f(int(dir.Fd()), filepath.Base(path)); err != nil {
		return fmt.Errorf("subvolume %s: %w", path, err)
	}
	return nil
}

func ioctl(fd int, call uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), call, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
