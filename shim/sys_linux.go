package shim

import (
	"errors"
	"os"
	"syscall"
)

// ownSession takes a shim out of the daemon's session and process group, so that
// no signal meant for the daemon reaches it.
func ownSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// isRefusal is the error of connecting to a socket that nobody listens on, or that
// is not there.
func isRefusal(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist)
}
