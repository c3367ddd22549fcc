package netns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/crashpoint"
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

	kindUser = kind{"user", unix.CLONE_NEWUSER}
)

// unshare takes the calling thread, which must be locked and about to end, into
// new namespaces. It returns the folder that shows them, and nothing to undo.
func unshare(kinds []kind) (from string, undo func(), err error) {
	if err := unix.Unshare(flagsOf(kinds)); err != nil {
		return "", nil, os.NewSyscallError("unshare", err)
	}
	return "/proc/self/task/" + strconv.Itoa(unix.Gettid()) + "/ns", func() {}, nil
}

func flagsOf(kinds []kind) int {
	flags := 0
	for _, k := range kinds {
		flags |= k.flag
	}
	return flags
}

// startIn starts program, called "pause", in new namespaces of kinds, the first of
// which is a user namespace with that map. It dies with the calling thread, which
// must be locked. It has no capability and a user that the map does not know.
func startIn(program string, kinds []kind, m IDMap) (*exec.Cmd, error) {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(m.HostID), Size: int(m.Size)}}
	cmd := &exec.Cmd{Path: program, Args: []string{"pause"}, Dir: "/", Env: []string{}, SysProcAttr: &unix.SysProcAttr{
		Cloneflags:  uintptr(flagsOf(kinds)),
		UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Pdeathsig: unix.SIGKILL,
	}}
	return cmd, cmd.Start()
}

// enter takes the calling thread, which must be locked and about to end, into the
// namespaces of kinds below from, but for the user namespace: a process of several
// threads cannot join one (setns(2)), and its owner has all rights in it from outside.
func enter(from string, kinds []kind) error {
	for _, k := range kinds {
		if k == kindUser {
			continue
		}
		f, err := os.Open(filepath.Join(from, k.name))
		if err != nil {
			return err
		}
		err = unix.Setns(int(f.Fd()), k.flag)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s namespace: %w", k.name, os.NewSyscallError("setns", err))
		}
	}
	return nil
}

// asUser runs f with the calling thread's effective user set to uid; the thread must
// be locked. The thread alone: the calls of package unix would change all threads.
func asUser(uid uint32, f func() error) error {
	const same = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(uid), same); errno != 0 {
		return os.NewSyscallError("setresuid", errno)
	}
	err := f()
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, 0, same); errno != 0 {
		return errors.Join(err, os.NewSyscallError("setresuid", errno))
	}
	return err
}

// noUserNamespaces tells whether err says that the kernel, or a limit of it, lets
// nobody make a user namespace.
func noUserNamespaces(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EPERM)
}

// routeNetlink is the netlink family that interfaces are asked for in.
const routeNetlink = unix.NETLINK_ROUTE

// enterNet takes the calling thread, which must be locked and about to end, into the
// network namespace ns.
func enterNet(ns *os.File) error {
	return os.NewSyscallError("setns", unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET))
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
	crashpoint.At("pin", path)
	if err := unix.Mount(from, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin %s: %w", path, os.NewSyscallError("mount", err))
	}
	crashpoint.At("pinned", path)
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
	crashpoint.At("unpin", path)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	crashpoint.At("unpinned", path)
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

// bootTime is when the machine was booted, by the clock as it is now.
func bootTime() (time.Time, error) {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Time{}, os.NewSyscallError("clock_gettime", err)
	}
	return time.Now().Add(-time.Duration(up.Nano())), nil
}

// killIf kills a process if it still is the one that it was taken for.
func killIf(pid int, isIt func() bool) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return isIt() && unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil
}

// ticks is how often in a second the kernel's clock of processes' beginnings ticks, for user space
// (USER_HZ).
const ticks = 100

// age is how long a process has been there; 0 when that is not known.
func age(pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	const starttime = 22 - 3 // proc_pid_stat(5); the first is state
	var now unix.Timespec
	if err != nil || len(fields) <= starttime || unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return 0
	}
	began, err := strconv.ParseInt(fields[starttime], 10, 64)
	if err != nil {
		return 0
	}
	return time.Duration(now.Nano()) - time.Duration(began)*(time.Second/ticks)
}

// groupOf is the ID of a process's group, which is that of the process that leads it.
func groupOf(pid int) int {
	group, err := unix.Getpgid(pid)
	if err != nil {
		return 0
	}
	return group
}
