package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// openDir opens the directory name in the directory dirfd, without following a
// symbolic link. The caller closes it.
func openDir(dirfd int, name string) (*os.File, error) {
	return open(dirfd, name, unix.O_DIRECTORY)
}

// openIfRegular opens name in the directory dirfd if it is a regular file. What
// is not is told by its kind and not opened: opening a device can do things.
func openIfRegular(dirfd int, name string) (f *os.File, isDir bool, err error) {
	var st unix.Stat_t
	for {
		err = unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return nil, false, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return nil, true, nil
	case unix.S_IFREG:
		f, err = open(dirfd, name, unix.O_NONBLOCK)
		return f, false, err
	}
	return nil, false, nil
}

func open(dirfd int, name string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|flags, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// here is the directory that relative names start from.
const here = unix.AT_FDCWD

// exchange has the files at a and b trade names, at once. Not every file system can.
func exchange(a, b string) error {
	for {
		if err := unix.Renameat2(here, a, here, b, unix.RENAME_EXCHANGE); err != unix.EINTR {
			return err
		}
	}
}

// allocate has the first size bytes of f stand on the disk.
func allocate(f *os.File, size int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, 0, size)
		if err != unix.EINTR {
			return os.NewSyscallError("fallocate", err)
		}
	}
}

// IsFull tells whether an error says that the disk, or its quota, has no more room.
func IsFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
