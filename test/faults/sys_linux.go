package main

import (
	"errors"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// stopSignal is the other signal that ends the program in good order.
func stopSignal() os.Signal { return unix.SIGTERM }

// pause stops a process from running, and resume has it go on.
func pause(pid int) error  { return signalTo(pid, unix.SIGSTOP) }
func resume(pid int) error { return signalTo(pid, unix.SIGCONT) }

// signalTo takes a process that is gone for one that has got the signal.
func signalTo(pid int, s syscall.Signal) error {
	if err := unix.Kill(pid, s); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// isFull tells whether a file system had no room, or no inode, for something.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) }

func mount(source, target, fstype, options string) error {
	return asError("mount", target, unix.Mount(source, target, fstype, 0, options))
}

// coverReadOnly mounts a folder, with what is mounted in it, over itself, read-only. Files that are
// open for writing stay so, which a remount would refuse.
func coverReadOnly(dir string) error {
	if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return asError("bind", dir, err)
	}
	err := unix.Mount("", dir, "", unix.MS_PRIVATE|unix.MS_REC, "")
	return asError("remount", dir, errors.Join(err, unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")))
}

// unmount takes a mount away when its last user has gone.
func unmount(dir string) error { return asError("unmount", dir, unix.Unmount(dir, unix.MNT_DETACH)) }

func makePipe(path string) error { return exists(asError("mkfifo", path, unix.Mkfifo(path, 0o600))) }

// makeSocket makes a socket that nobody listens on.
func makeSocket(path string) error {
	return exists(asError("mknod", path, unix.Mknod(path, unix.S_IFSOCK|0o600, 0)))
}

func exists(err error) error {
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func asError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}

// ownGroup has a command start a process group, which killGroup kills.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func killGroup(cmd *exec.Cmd) error {
	if err := unix.Kill(-cmd.Process.Pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}
