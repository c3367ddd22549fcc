package main

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// takeAfter gives a new file the mode and owner of the one that it is to replace, or, when
// that is nil, those of a file that all may read.
func takeAfter(f *os.File, have fs.FileInfo) error {
	if have == nil {
		return f.Chmod(0o644)
	}
	st, ok := have.Sys().(*syscall.Stat_t)
	if !ok {
		return f.Chmod(have.Mode().Perm())
	}
	return errors.Join(f.Chown(int(st.Uid), int(st.Gid)), f.Chmod(have.Mode().Perm()))
}

// isForbidden tells whether a call failed because the socket is not for this user.
func isForbidden(socket string) bool {
	return errors.Is(syscall.Access(socket, 2), fs.ErrPermission)
}
