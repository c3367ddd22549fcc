package main

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// mountTmpfs mounts a file system of a size of its own.
func mountTmpfs(dir, options string) error { return syscall.Mount("soak", dir, "tmpfs", 0, options) }

func unmount(dir string) error { return syscall.Unmount(dir, syscall.MNT_DETACH) }

// kill ends a process by force, and leave has a tick process exit with code 7.
func kill(pid int) error  { return syscall.Kill(pid, syscall.SIGKILL) }
func leave(pid int) error { return syscall.Kill(pid, syscall.SIGUSR1) }

// isFull tells the error of a disk without space.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) }

// makeCgroup makes the pods' parent, which is kubelet's to make.
func makeCgroup(name string) error {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return os.MkdirAll("/sys/fs/cgroup"+name, 0o755)
	}
	all, err := filepath.Glob("/sys/fs/cgroup/*")
	for _, h := range all {
		if fi, lerr := os.Lstat(h); lerr == nil && fi.IsDir() {
			err = errors.Join(err, os.MkdirAll(h+name, 0o755))
		}
	}
	return err
}

func removeCgroup(name string) error {
	all, err := filepath.Glob("/sys/fs/cgroup/*" + name)
	for _, dir := range append(all, "/sys/fs/cgroup"+name) {
		if rerr := os.Remove(dir); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}
