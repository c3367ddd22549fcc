package crash

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// apart says that this process has a network and mounts of its own.
const apart = "BERTH_CRASH_APART"

// TestMain runs the tests in a network namespace and a mount namespace of their own, so that
// what others do on the machine does not look like berth's leavings.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(apart) != "" {
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), apart+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(max(1, exit.ExitCode()))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// furnish brings loopback up and mounts the sysfs that shows the namespace's interfaces.
func furnish() error {
	if os.Getenv(apart) == "" {
		return nil
	}
	out, err := exec.Command("sh", "-ec", `
ip link set lo up
keep=$(mktemp -d)
mount --rbind /sys/fs/cgroup "$keep"
mount -t sysfs sysfs /sys
mount --rbind "$keep" /sys/fs/cgroup
umount -l "$keep"
rmdir "$keep"`).CombinedOutput()
	if err != nil {
		return fmt.Errorf("a network of the tests' own: %w: %s", err, out)
	}
	return nil
}

// hangUp sends SIGHUP to a process.
func hangUp(pid int) error { return syscall.Kill(pid, syscall.SIGHUP) }

// killPID ends a process.
func killPID(pid int) error {
	err := syscall.Kill(pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// running lists the processes of the program at path whose first argument is arg; "" is any.
func running(path, arg string) (pids []int) {
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		exe, err := os.Readlink("/proc/" + d.Name() + "/exe")
		if err != nil || strings.TrimSuffix(exe, " (deleted)") != path { // another may have taken its place
			continue
		}
		line, err := os.ReadFile("/proc/" + d.Name() + "/cmdline")
		f := strings.Split(string(line), "\x00")
		var pid int
		if _, serr := fmt.Sscan(d.Name(), &pid); err == nil && serr == nil && len(f) > 1 && (arg == "" || f[1] == arg) {
			pids = append(pids, pid)
		}
	}
	return pids
}
