package disk

import (
	"os"

	"golang.org/x/sys/unix"
)

// allocate takes size bytes from the file system for f.
func allocate(f *os.File, size int64) error {
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		return &os.PathError{Op: "fallocate", Path: f.Name(), Err: err}
	}
	return nil
}
