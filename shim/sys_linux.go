package shim

import (
	"errors"
	"os"
	"os/exec"
	"syscall"

	"github.com/berthd/berth/shim/keeper/pidfd"

	"golang.org/x/sys/unix"
)

// ownSession takes a shim out of the daemon's session and process group, so that
// no signal meant for the daemon reaches it.
func ownSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// isRefusal is the error of connecting to a socket that nobody listens on, or that
// is not there.
func isRefusal(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist)
}

// isHangup is what reading a terminal's master gives when nobody has its other
// side open.
func isHangup(err error) bool { return errors.Is(err, unix.EIO) }

// resize sets a terminal's size in characters.
func resize(master *os.File, width, height uint16) error {
	rc, err := master.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := rc.Control(func(fd uintptr) {
		serr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height})
	}); err != nil {
		return err
	}
	return os.NewSyscallError("ioctl(TIOCSWINSZ)", serr)
}

// pending is how many bytes of a pipe or a terminal wait to be read, 0 when that
// cannot be told.
func pending(f *os.File) int {
	rc, err := f.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	_ = rc.Control(func(fd uintptr) {
		if waiting, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ); err == nil {
			n = waiting
		}
	})
	return n
}

// sigchld says that a child has died.
const sigchld = unix.SIGCHLD

// sigkill is the signal that no process can refuse.
const sigkill = int(unix.SIGKILL)

// watchChild has cmd's process opened when it is started. The result is called then, and its
// handle is the caller's.
func watchChild(cmd *exec.Cmd) (child func() pidfd.Handle) {
	fd := -1
	cmd.SysProcAttr = &syscall.SysProcAttr{PidFD: &fd}
	return func() pidfd.Handle {
		if fd < 0 {
			return pidfd.Handle{}
		}
		return pidfd.Take(os.NewFile(uintptr(fd), "pidfd"))
	}
}

// becomeReaper makes what a dead child leaves our children.
func becomeReaper() error {
	return os.NewSyscallError("prctl(PR_SET_CHILD_SUBREAPER)", unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
}
