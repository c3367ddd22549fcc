package bundle

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// room is what the file system of a folder has free.
func room(dir string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", fmt.Errorf("%s: %w", dir, err)
	}
	size := uint64(st.Bsize) //nolint:gosec // it is positive
	return fmt.Sprintf("type 0x%x, %d of %d MiB free, %d of %d inodes free", st.Type, st.Bavail*size>>20, st.Blocks*size>>20, st.Ffree, st.Files), nil
}
