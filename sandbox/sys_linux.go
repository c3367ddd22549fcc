package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/selinux/go-selinux/label"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/crashpoint"
	"github.com/berthd/berth/sandbox/cgroupstat"
)

// sigkill and sigterm are the signals this package sends of its own accord.
const (
	sigkill = int(unix.SIGKILL)
	sigterm = int(unix.SIGTERM)
)

// shmSize is the size of a pod's /dev/shm, which is what both incumbents and
// Docker give.
const shmSize = "size=65536k"

// mountShm mounts a tmpfs for POSIX shared memory at dir, once, for that user and group,
// with that SELinux label unless it is empty.
func mountShm(dir string, owner int, context string) error {
	mounted, err := isMount(dir)
	if err != nil || mounted {
		return err
	}
	options := fmt.Sprintf("mode=1777,uid=%d,gid=%d,%s", owner, owner, shmSize)
	if context != "" {
		options = label.FormatMountLabel(options, context)
	}
	err = unix.Mount("shm", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, options)
	if err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	crashpoint.At("mounted", dir)
	return nil
}

// isMount tells whether something is mounted at path. A missing path is not.
func isMount(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("statx %s: %w", path, err)
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// pinNamespace keeps the namespace file source alive at path, once.
func pinNamespace(source, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return fmt.Errorf("pin %s: %w", source, err)
	}
	f.Close()
	if mounted, err := isMount(path); err != nil || mounted {
		return err
	}
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin %s: %w", source, err)
	}
	crashpoint.At("pinned", path)
	return nil
}

// bindFile makes the file source appear at path, read-only, once.
func bindFile(source, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o755)
	if err != nil {
		return fmt.Errorf("bind %s: %w", source, err)
	}
	f.Close()
	if mounted, err := isMount(path); err != nil || mounted {
		return err
	}
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", source, err)
	}
	if err := unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("bind %s: read-only: %w", source, err)
	}
	return nil
}

// unmount takes everything off path. A path that is not a mount, or not there,
// is fine.
func unmount(path string) error {
	for {
		mounted, err := isMount(path)
		if err != nil || !mounted {
			return err
		}
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
		crashpoint.At("unmounted", path)
	}
}

// mountIDOf is the ID, as in mountinfo, of the mount that path is on; links are followed.
// known is false on a kernel before 5.8.
func mountIDOf(path string) (id int, known bool, err error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &st); err != nil {
		return 0, false, fmt.Errorf("statx %s: %w", path, err)
	}
	return int(st.Mnt_id), st.Mask&unix.STATX_MNT_ID != 0, nil
}

// isNoXattr says that a file system keeps no extended attributes, and so no labels.
func isNoXattr(err error) bool { return errors.Is(err, unix.ENOTSUP) }

// pidNamespacePath is the PID namespace file of a live process.
func pidNamespacePath(pid int) string {
	return "/proc/" + strconv.Itoa(pid) + "/ns/pid"
}

// signalNamed is the number of a signal by its name, with the prefix SIG.
func signalNamed(name string) (n int, ok bool) {
	sig := unix.SignalNum(name)
	return int(sig), sig != 0
}

// A Filesystem is the one that containers' writable layers are on.
type Filesystem struct {
	Device             string // "/dev/…", or "" when it is on no block device
	Size               uint64 // bytes
	Inodes, InodesFree uint64
}

// filesystemAt describes the file system of a directory.
func filesystemAt(dir string) (Filesystem, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Filesystem{}, fmt.Errorf("statfs %s: %w", dir, err)
	}
	var at unix.Stat_t
	if err := unix.Stat(dir, &at); err != nil {
		return Filesystem{}, fmt.Errorf("stat %s: %w", dir, err)
	}
	return Filesystem{
		Device: cgroupstat.DeviceName(unix.Major(at.Dev), unix.Minor(at.Dev)),
		Size:   st.Blocks * uint64(st.Frsize),
		Inodes: st.Files, InodesFree: st.Ffree,
	}, nil
}

// checkDevicesAllowed refuses a folder in which device nodes cannot be opened.
func checkDevicesAllowed(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("statfs %s: %w", dir, err)
	}
	if st.Flags&unix.ST_NODEV != 0 {
		return fmt.Errorf("%s: is mounted nodev; put root where device nodes work, or turn devices.device_ownership_from_security_context off: %w", dir, ErrBadState)
	}
	return nil
}

// makeDeviceNode makes a node of the device at path, with that owner on the host, in
// place of one that an attempt before left.
func makeDeviceNode(path string, d specs.LinuxDevice, uid, gid int) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	kind := uint32(unix.S_IFCHR)
	if d.Type == "b" {
		kind = unix.S_IFBLK
	}
	if err := unix.Mknod(path, kind|0o600, int(unix.Mkdev(uint32(d.Major), uint32(d.Minor)))); err != nil {
		return fmt.Errorf("mknod %s: %w", path, err)
	}
	if err := os.Chown(path, uid, gid); err != nil {
		return err
	}
	return os.Chmod(path, *d.FileMode&os.ModePerm) // past the umask
}
