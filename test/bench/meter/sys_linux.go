package meter

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// An inode is a file, whatever its names.
type inode struct{ dev, ino uint64 }

// lstat returns what path is and what it takes on disk, in bytes.
func lstat(path string) (inode, int64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return inode{}, 0, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return inode{st.Dev, st.Ino}, st.Blocks * 512, nil
}

// Sync writes all of the file system that dir is on to disk.
func Sync(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

// OnDisk fails when dir is in memory, where writing costs nothing.
func OnDisk(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC {
		return fmt.Errorf("%s is in memory: set TMPDIR to a folder on a disk", dir)
	}
	return nil
}
