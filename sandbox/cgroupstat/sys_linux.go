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
	path := filepath.Join(dir, name)
	fd, err := retry(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, absent(path, err)
	}
	defer unix.Close(fd)
	b := *buf
	if len(b) == 0 {
		b = make([]byte, 8<<10)
	}
	size := 0
	for {
		if size == len(b) {
			if size >= maxFile {
				return nil, fmt.Errorf("cgroup: %s: longer than %d bytes", path, maxFile)
			}
			b = append(b, make([]byte, len(b))...)
		}
		n, err := retry(func() (int, error) { return unix.Read(fd, b[size:]) })
		if err != nil {
			return nil, absent(path, err)
		}
		if n == 0 {
			*buf = b
			return b[:size], nil
		}
		size += n
	}
}

func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
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
