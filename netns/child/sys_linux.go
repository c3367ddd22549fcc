package child

import (
	"errors"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// inOwnGroup has cmd run in a process group of its own, all of which is killed when cmd's context ends.
func inOwnGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		err := unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		if errors.Is(err, unix.ESRCH) {
			return os.ErrProcessDone
		}
		return os.NewSyscallError("kill", err)
	}
}
