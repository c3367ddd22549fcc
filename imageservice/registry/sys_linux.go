package registry

import (
	"errors"
	"os/exec"
	"syscall"
)

// isRefused reports whether nobody listens where a connection was to be made.
func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// ownGroup gives cmd a process group of its own, which ends as a whole when its context does.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return killGroup(cmd) }
}

// killGroup kills what is left of cmd's process group.
func killGroup(cmd *exec.Cmd) error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
