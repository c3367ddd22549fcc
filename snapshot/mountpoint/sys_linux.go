package mountpoint

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"

	"github.com/berthd/berth/crashpoint"
	"golang.org/x/sys/unix"
)

// What the kernel takes: a string of fsconfig(2), and the page of mount(2).
const (
	MaxSetting = 255
	MaxData    = 4095
)

// A Setting is one of a file system's own options.
type Setting struct {
	Key, Value string
	Flag       bool // has no value
}

// Flags are the options that any file system has, for either way of mounting. The zero value
// is none.
type Flags struct {
	ms   uintptr
	attr int
	free bool // of what the file system that is bound forbids
}

// Take notes the option and tells whether it is such a one.
func (f *Flags) Take(option string) bool {
	switch option {
	case "ro":
		f.ms, f.attr = f.ms|unix.MS_RDONLY, f.attr|unix.MOUNT_ATTR_RDONLY
	case "nosuid":
		f.ms, f.attr = f.ms|unix.MS_NOSUID, f.attr|unix.MOUNT_ATTR_NOSUID
	case "nodev":
		f.ms, f.attr = f.ms|unix.MS_NODEV, f.attr|unix.MOUNT_ATTR_NODEV
	case "noexec":
		f.ms, f.attr = f.ms|unix.MS_NOEXEC, f.attr|unix.MOUNT_ATTR_NOEXEC
	case "noatime":
		f.ms, f.attr = f.ms|unix.MS_NOATIME, f.attr|unix.MOUNT_ATTR_NOATIME
	case "bind":
		f.ms |= unix.MS_BIND
	case "rbind":
		f.ms |= unix.MS_BIND | unix.MS_REC
	case "suid", "dev", "exec":
		f.free = true
	case "rw", "relatime", "defaults":
	default:
		return false
	}
	return true
}

// Mount mounts a file system of type kind with mount(2). data is its own options.
func Mount(kind, source, target string, flags Flags, data string) error {
	if err := unix.Mount(source, target, kind, flags.ms, data); err != nil {
		return fmt.Errorf("mount %s: %w", kind, err)
	}
	crashpoint.At("mounted", target)
	if flags.ms&unix.MS_BIND == 0 || flags.ms&^(unix.MS_BIND|unix.MS_REC) == 0 && !flags.free {
		return nil
	}
	if err := unix.Mount("", target, "", flags.ms|unix.MS_REMOUNT, ""); err != nil { // a bind mount heeds flags only so
		return errors.Join(fmt.Errorf("remount: %w", err), Unmount(target))
	}
	return nil
}

// Detached makes a mount that is nowhere yet, with fsopen(2) and its kin, of kernel 5.2. The
// caller closes what it returns, and so with the other functions that return one.
func Detached(kind, source string, flags Flags, settings []Setting) (mount int, err error) {
	fd, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen %s: %w", kind, err)
	}
	defer unix.Close(fd)
	settings = append([]Setting{{Key: "source", Value: source}}, settings...)
	for _, s := range settings {
		if s.Flag {
			err = unix.FsconfigSetFlag(fd, s.Key)
		} else {
			err = unix.FsconfigSetString(fd, s.Key, s.Value)
		}
		if err != nil {
			return -1, fmt.Errorf("fsconfig %s=%s: %s%w", s.Key, s.Value, contextLog(fd), err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return -1, fmt.Errorf("fsconfig create %s: %s%w", kind, contextLog(fd), err)
	}
	if mount, err = unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, flags.attr); err != nil {
		return -1, fmt.Errorf("fsmount: %w", err)
	}
	return mount, nil
}

// Move mounts a mount that is nowhere yet at target.
func Move(mount int, target string) error {
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// AppendsLowerDirs tells whether overlayfs takes its lower directories one at a time
// (lowerdir+, kernel 6.8). Where it has not the calls of fsopen(2) of its own, before
// 6.5, it takes any word for an option, and complains in the kernel's log at the end.
var AppendsLowerDirs = sync.OnceValue(func() bool {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.FsconfigSetString(fd, "berth-no-option", "/") != nil && unix.FsconfigSetString(fd, "lowerdir+", "/") == nil
})

// Clone returns a copy of the mount at target, which is nowhere yet.
func Clone(target string) (mount int, err error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, target, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return -1, fmt.Errorf("open_tree %s: %w", target, err)
	}
	return fd, nil
}

// CloneOf is Clone for what is open as fd, directory or file.
func CloneOf(fd int) (mount int, err error) {
	mount, err = unix.OpenTree(fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	return mount, os.NewSyscallError("open_tree", err)
}

// MapInPlace mounts dir on itself, with the map of the user namespace that the file
// userns is, for the calling thread's mount namespace.
func MapInPlace(dir string, userns int) error {
	tree, err := Clone(dir)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns)}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("mount_setattr %s: MOUNT_ATTR_IDMAP: %w", dir, err)
	}
	return Move(tree, dir)
}

// Apply gives tree, a mount that is nowhere yet, the flags and no others, and the map of
// the user namespace that the file userns is.
func (f Flags) Apply(tree, userns int) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP | uint64(f.attr), Userns_fd: uint64(userns)}
	if f.free {
		attr.Attr_clr = (unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC) &^ uint64(f.attr)
	}
	return os.NewSyscallError("mount_setattr", unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr))
}

// InOwnNamespace runs f on a thread with a mount namespace of its own, which ends with f:
// what f mounts is seen by nobody else, save through descriptors.
//
// The goroutine takes its thread there and never unlocks it, so the thread ends with it.
// The process's first thread cannot end, and shows its namespaces as the process's own: a
// goroutine that finds itself there keeps it busy while another one does the work.
func InOwnNamespace(f func() error) error {
	done := make(chan error, 1)
	var run func()
	run = func() {
		runtime.LockOSThread() // no unlock: see above
		if unix.Gettid() == unix.Getpid() {
			next := make(chan struct{})
			go func() {
				defer close(next)
				run()
			}()
			<-next
			runtime.UnlockOSThread()
			return
		}
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			done <- os.NewSyscallError("unshare", err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			done <- fmt.Errorf("private mounts: %w", err)
			return
		}
		done <- f()
	}
	go run()
	return <-done
}

// contextLog is what the kernel has to say about a mount that failed, as text to put
// before the error.
func contextLog(fd int) string {
	var out strings.Builder
	buf := make([]byte, 1024)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil || n <= 0 {
			return out.String()
		}
		out.WriteString(strings.TrimSpace(string(buf[:n])) + ": ")
	}
}

// ErrNotMounted says that a path is no mount point, or not there.
var ErrNotMounted = errors.New("not mounted")

// Unmount takes the topmost mount off target; ErrNotMounted when there is none. One that is
// busy goes as soon as its last user does.
func Unmount(target string) error {
	err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
	if err == unix.EBUSY {
		err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err == unix.EINVAL || err == unix.ENOENT || err == unix.ENOTDIR {
		return ErrNotMounted
	}
	crashpoint.At("unmounted", target)
	return err
}

// IsNoBlockDevice says that a file system is mounted from block devices only.
func IsNoBlockDevice(err error) bool { return errors.Is(err, unix.ENOTBLK) }
