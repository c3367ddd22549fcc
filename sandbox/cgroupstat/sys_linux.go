package cgroupstat

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxFile bounds a file of a cgroup, in bytes. The longest, io.stat on a machine with
// a thousand disks, stays below it.
const maxFile = 256 << 10

// readFile reads dir/name into buf, which it may replace by a larger one. It asks the
// kernel for nothing but the bytes: a file of a cgroup is read often and never waits.
// The error is fs.ErrNotExist when the cgroup or the file is not there, or went while
// it was read, and when the kernel was told not to keep what the file is about.
func readFile(dir, name string, buf *[]byte) ([]byte, error) {
	fd, err := openFile(dir, name)
	if err != nil {
		return nil, err
	}
	defer closeFile(fd)
	return readAt(fd, dir, name, buf, false)
}

// openFile opens dir/name for readAt. Its errors are readFile's.
func openFile(dir, name string) (fd int, err error) {
	path := filepath.Join(dir, name)
	for {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return -1, absent(path, err)
	}
	return fd, nil
}

func closeFile(fd int) { _ = unix.Close(fd) } // nothing was written

// readAt is readFile of a file that is open, whatever was read of it before: the kernel counts
// anew for who reads from the beginning. One that is single the kernel hands out in one piece,
// if there is room for it: all files but lists.
func readAt(fd int, dir, name string, buf *[]byte, single bool) ([]byte, error) {
	if len(*buf) == 0 {
		*buf = make([]byte, 8<<10)
	}
	size := 0
	for {
		if size == len(*buf) {
			if size >= maxFile {
				return nil, fmt.Errorf("cgroup: %s: longer than %d bytes", filepath.Join(dir, name), maxFile)
			}
			*buf = append(*buf, make([]byte, len(*buf))...)
		}
		n, err := unix.Pread(fd, (*buf)[size:], int64(size))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, absent(filepath.Join(dir, name), err)
		case n == 0:
			return (*buf)[:size], nil
		default:
			if size += n; single && size < len(*buf) {
				return (*buf)[:size], nil
			}
		}
	}
}

// openFilesLimit is how many files this process may have open.
func openFilesLimit() int64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int64(min(limit.Cur, 1<<20))
}

// absent gives the errors of a cgroup that has gone, and of a file that the kernel
// keeps switched off, one name.
func absent(path string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOTDIR),
		errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ESRCH):
		return fmt.Errorf("cgroup: %s: %w", path, fs.ErrNotExist)
	}
	return fmt.Errorf("cgroup: %s: %w", path, err)
}
