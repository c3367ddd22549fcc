package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// A kind is a type of namespace.
type kind struct {
	name string // in /proc/<pid>/ns, and of the pin
	flag int    // CLONE_NEW…
}

var (
	kindNet = kind{"net", unix.CLONE_NEWNET}
	kindIPC = kind{"ipc", unix.CLONE_NEWIPC}
	kindUTS = kind{"uts", unix.CLONE_NEWUTS}
)

// unshare takes the calling thread, which must be locked and about to end, into
// new namespaces. It returns the folder that shows them.
func unshare(kinds []kind) (string, error) {
	flags := 0
	for _, k := range kinds {
		flags |= k.flag
	}
	if err := unix.Unshare(flags); err != nil {
		return "", os.NewSyscallError("unshare", err)
	}
	return "/proc/self/task/" + strconv.Itoa(unix.Gettid()) + "/ns", nil
}

func onFirstThread() bool { return unix.Gettid() == unix.Getpid() }

func setHostname(name string) error {
	return os.NewSyscallError("sethostname", unix.Sethostname([]byte(name)))
}

// pin binds the namespace that from shows to the file at path, which it makes.
func pin(from, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	if err := unix.Mount(from, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin %s: %w", path, os.NewSyscallError("mount", err))
	}
	return nil
}

// unpin undoes pin, however often something was mounted there. A path that is
// not a mount, or is not there, is fine. Removing the file detaches copies of
// the mount in other mount namespaces too (Linux 3.18), so none of them keeps
// the pod's namespace alive.
func unpin(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("unpin %s: %w", path, os.NewSyscallError("umount", err))
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// allPinned tells whether dir has a pin of each of kinds.
func allPinned(dir string, kinds []kind) bool {
	for _, k := range kinds {
		if !isPinned(filepath.Join(dir, k.name), k) {
			return false
		}
	}
	return true
}

// isPinned tells whether the file at path is a namespace of kind k.
func isPinned(path string, k kind) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	is, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	return err == nil && is == k.flag
}

// isBadValue tells whether err is a sysctl's way to refuse what was written.
func isBadValue(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ERANGE)
}

// isBusy tells whether a program could not be started because its file is being
// written at this moment.
func isBusy(err error) bool { return errors.Is(err, unix.ETXTBSY) }

// inOwnGroup has cmd run in a process group of its own, all of which is killed
// when cmd's context ends.
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

// tryLock takes the lock of an open file, which every process that inherits the
// file holds too; held is true when another has it.
func tryLock(f *os.File) (held bool, err error) {
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, os.NewSyscallError("flock", err)
}

// dropLock gives the lock of an open file back for all who inherited it.
func dropLock(f *os.File) { _ = unix.Flock(int(f.Fd()), unix.LOCK_UN) }
