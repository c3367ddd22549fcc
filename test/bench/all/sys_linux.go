package main

import (
	"os/exec"
	"syscall"
	"time"
)

// freeze stops processes where they are, thaw lets them go on. One that has ended is fine.
func freeze(pids []int) { signal(pids, syscall.SIGSTOP) }
func thaw(pids []int)   { signal(pids, syscall.SIGCONT) }

// kill ends processes at once.
func kill(pids []int) { signal(pids, syscall.SIGKILL) }

func signal(pids []int, s syscall.Signal) {
	for _, pid := range pids {
		_ = syscall.Kill(pid, s)
	}
}

// interrupt has a program end in good order when its context does, rather than be killed.
func interrupt(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
}
