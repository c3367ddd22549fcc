package download

import (
	"errors"
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

// allocated is what a file takes on disk, in bytes.
func allocated(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Blocks) * 512
	}
	return 0
}

// IsFull tells whether an error is that there is no space left.
func IsFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
