package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/crashpoint"
)

// An at is an open directory. What is done to files whose names come from strangers
// is done through one: a name given to its methods is a single component unless the
// method says otherwise, so no path is ever resolved outside it.
type at int

// below is how a path of more than one component is resolved: downwards only, through
// no symbolic link and no /proc link.
const below = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// openAt opens the directory at path, which is one of ours.
func openAt(path string) (at, error) {
	fd, err := openat2(unix.AT_FDCWD, path, unix.O_PATH|unix.O_DIRECTORY, 0, 0)
	return at(fd), err
}

func (d at) close() { unix.Close(int(d)) }

// dup gives a second descriptor for d.
func (d at) dup() (at, error) {
	fd, err := unix.FcntlInt(uintptr(d), unix.F_DUPFD_CLOEXEC, 0)
	return at(fd), os.NewSyscallError("dup", err)
}

// dir opens the directory at the relative path rel below d.
func (d at) dir(rel string) (at, error) {
	fd, err := openat2(int(d), rel, unix.O_PATH|unix.O_DIRECTORY, 0, below)
	return at(fd), err
}

// list opens the directory at the relative path rel below d for reading its names.
func (d at) list(rel string) (*os.File, error) {
	return newFile(rel)(openat2(int(d), rel, unix.O_RDONLY|unix.O_DIRECTORY, 0, below))
}

// create makes a file that must not be there yet.
func (d at) create(name string) (*os.File, error) {
	return newFile(name)(openat2(int(d), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600, below))
}

// open opens a file known to be a regular one for reading.
func (d at) open(name string) (*os.File, error) {
	return newFile(name)(openat2(int(d), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0, below))
}

// inRoot finds path, of any length, as a process with root d would: an absolute link
// starts at d, and ".." stops there. What it gives can be asked and not read.
func (d at) inRoot(path string) (at, error) {
	fd, err := openat2(int(d), path, unix.O_PATH, 0, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	return at(fd), err
}

// reopen opens for reading what d, not necessarily a directory, stands for.
func (d at) reopen() (*os.File, error) {
	fd, err := openat2(unix.AT_FDCWD, d.procPath(), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0, 0)
	return newFile("")(fd, err)
}

// bindAt mounts what d stands for, directory or file, at target.
func (d at) bindAt(target string) error {
	made, err := unix.OpenTree(int(d), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(made)
	return at(made).moveTo(target)
}

// openat2Tries bounds how often a lookup that raced with a rename is tried again.
const openat2Tries = 128

func openat2(dirfd int, path string, flags int, mode, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Mode: mode, Resolve: resolve}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(dirfd, path, &how)
		if err == nil {
			return fd, nil
		}
		if err == unix.EINTR || err == unix.EAGAIN && try < openat2Tries {
			continue
		}
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
}

func newFile(name string) func(int, error) (*os.File, error) {
	return func(fd int, err error) (*os.File, error) {
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

func (d at) mkdir(name string, mode uint32) error {
	if err := unix.Mkdirat(int(d), name, mode); err != nil {
		return &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	return d.chmod(name, mode) // past the umask
}

// mknod makes a device, FIFO or socket; mode has the type's bits. The umask applies.
func (d at) mknod(name string, mode uint32, dev uint64) error {
	return pathError("mknod", name, unix.Mknodat(int(d), name, mode, int(dev)))
}

func (d at) symlink(target, name string) error {
	return pathError("symlink", name, unix.Symlinkat(target, int(d), name))
}

// link gives the file name a second name in directory to. It follows no link.
func (d at) link(name string, to at, newName string) error {
	return pathError("link", newName, unix.Linkat(int(d), name, int(to), newName, 0))
}

func (d at) rename(name string, to at, newName string) error {
	return pathError("rename", name, unix.Renameat2(int(d), name, int(to), newName, unix.RENAME_NOREPLACE))
}

func (d at) unlink(name string) error {
	return pathError("unlink", name, unix.Unlinkat(int(d), name, 0))
}

func (d at) rmdir(name string) error {
	return pathError("rmdir", name, unix.Unlinkat(int(d), name, unix.AT_REMOVEDIR))
}

func (d at) readlink(name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(d), name, buf)
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: name, Err: err}
	}
	return string(buf[:n]), nil
}

func (d at) chown(name string, uid, gid uint32) error {
	return pathError("chown", name, unix.Fchownat(int(d), name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW))
}

// chmod follows no link, not even one that has just come; on a link it is an error. Before
// kernel 6.6 there is no call for that.
func (d at) chmod(name string, mode uint32) error {
	err := unix.Fchmodat(int(d), name, mode, unix.AT_SYMLINK_NOFOLLOW)
	if err != unix.EOPNOTSUPP {
		return pathError("chmod", name, err)
	}
	return d.chmodOpen(name, mode)
}

// chmodOpen is chmod for older kernels.
func (d at) chmodOpen(name string, mode uint32) error {
	fd, err := openat2(int(d), name, unix.O_PATH|unix.O_NOFOLLOW, 0, unix.RESOLVE_BENEATH)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if a, err := at(fd).self(); err != nil || a.isSymlink() {
		return errors.Join(err, pathError("chmod", name, unix.ELOOP))
	}
	return pathError("chmod", name, unix.Fchmodat(unix.AT_FDCWD, at(fd).procPath(), mode, 0))
}

func (d at) chtimes(name string, mtime time.Time) error {
	ts := unix.Timespec{Sec: mtime.Unix(), Nsec: int64(mtime.Nanosecond())}
	return pathError("chtimes", name, unix.UtimesNanoAt(int(d), name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
}

// viaProc names a file for the calls on extended attributes, which know no directories
// before kernel 6.13.
func (d at) viaProc(name string) string { return d.procPath() + "/" + name }

func (d at) setxattr(name, key string, value []byte) error {
	return pathError("setxattr "+key, name, unix.Lsetxattr(d.viaProc(name), key, value, 0))
}

// getxattr returns nil when there is no such attribute.
func (d at) getxattr(name, key string) ([]byte, error) {
	for size := 256; ; size = maxXattr {
		buf := make([]byte, size)
		n, err := unix.Lgetxattr(d.viaProc(name), key, buf)
		switch {
		case err == nil:
			return buf[:n], nil
		case err == unix.ENODATA || err == unix.ENOTSUP:
			return nil, nil
		case err != unix.ERANGE || size == maxXattr:
			return nil, pathError("getxattr "+key, name, err)
		}
	}
}

// maxXattr is the kernel's limit on a value and on a list (XATTR_SIZE_MAX, XATTR_LIST_MAX).
const maxXattr = 64 << 10

// listxattr returns the names of name's extended attributes.
func (d at) listxattr(name string) ([]string, error) {
	n, err := unix.Llistxattr(d.viaProc(name), nil)
	if n == 0 || err == unix.ENOTSUP {
		return nil, nil
	}
	if err == nil {
		buf := make([]byte, maxXattr)
		if n, err = unix.Llistxattr(d.viaProc(name), buf); err == nil {
			return strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 }), nil
		}
	}
	return nil, pathError("listxattr", name, err)
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: name, Err: err}
}

// attr is what stat tells.
type attr struct {
	mode         uint32 // type and permissions
	uid, gid     uint32
	dev, rdev    uint64
	ino, nlink   uint64
	size, blocks int64 // blocks of 512 bytes
	mtime, ctime time.Time
}

func (a attr) kind() uint32     { return a.mode & unix.S_IFMT }
func (a attr) perm() uint32     { return a.mode & 0o7777 }
func (a attr) isDir() bool      { return a.kind() == unix.S_IFDIR }
func (a attr) isRegular() bool  { return a.kind() == unix.S_IFREG }
func (a attr) isSymlink() bool  { return a.kind() == unix.S_IFLNK }
func (a attr) isWhiteout() bool { return a.kind() == unix.S_IFCHR && a.rdev == 0 }

// The kinds of special files that mknod makes.
const (
	kindChar  = unix.S_IFCHR
	kindBlock = unix.S_IFBLK
	kindFifo  = unix.S_IFIFO
)

// stat tells about name itself, link or not; "." is d.
func (d at) stat(name string) (attr, error) { return d.statFlags(name, unix.AT_SYMLINK_NOFOLLOW) }

// self tells about what d stands for, be it a directory or not.
func (d at) self() (attr, error) { return d.statFlags("", unix.AT_EMPTY_PATH) }

func (d at) statFlags(name string, flags int) (attr, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(d), name, &st, flags); err != nil {
		return attr{}, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return attr{
		mode: st.Mode, uid: st.Uid, gid: st.Gid, dev: uint64(st.Dev), rdev: uint64(st.Rdev), //nolint:unconvert // the types differ by architecture
		ino: st.Ino, nlink: uint64(st.Nlink), size: st.Size, blocks: st.Blocks,
		mtime: time.Unix(st.Mtim.Unix()), ctime: time.Unix(st.Ctim.Unix()),
	}, nil
}

// device makes a device number; false when the kernel has no such number.
func device(major, minor int64) (uint64, bool) {
	if major < 0 || major >= 1<<12 || minor < 0 || minor >= 1<<20 {
		return 0, false
	}
	return unix.Mkdev(uint32(major), uint32(minor)), true
}

// startWriteback asks the kernel to write f's dirty pages from offset on without
// waiting for them, so that a later fsync finds little to do.
func startWriteback(f *os.File, offset int64) {
	_ = unix.SyncFileRange(int(f.Fd()), offset, 0, unix.SYNC_FILE_RANGE_WRITE) // a hint
}

// What an error says, for those that package os has no word for.

func isLoop(err error) bool   { return errors.Is(err, unix.ELOOP) }
func isNotDir(err error) bool { return errors.Is(err, unix.ENOTDIR) }
func isDirectory(err error) bool {
	return errors.Is(err, unix.EISDIR)
}
func isNotEmpty(err error) bool {
	return errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, fs.ErrExist)
}
func isNameTooLong(err error) bool { return errors.Is(err, unix.ENAMETOOLONG) }

// isRefused says that a file of this kind, or this file system, takes no such attribute.
func isRefused(err error) bool {
	return errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM)
}

// isBadValue says that an attribute's value makes no sense.
func isBadValue(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ERANGE)
}

// isGone says that a name has gone or become something else since it was read.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || isLoop(err) || isNotDir(err)
}

// isBadDisk says that the disk, or the file system on it, has lost what was to be read.
func isBadDisk(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.EUCLEAN) || errors.Is(err, unix.EBADMSG)
}

// procPath is a path to what d stands for, as long as d is open.
func (d at) procPath() string { return fmt.Sprintf("/proc/self/fd/%d", d) }

// What the kernel takes: a string of fsconfig(2), and the page of mount(2).
const (
	maxFsconfig  = 255
	maxMountData = 4095
)

// mountFlags are the options that any file system has, for either way of mounting.
type mountFlags struct {
	ms   uintptr
	attr int
	free bool // of what the file system that is bound forbids
}

// take notes the option and tells whether it is such a one.
func (f *mountFlags) take(option string) bool {
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

// byMount mounts with mount(2).
func (m mounting) byMount(target, data string) error {
	if err := unix.Mount(m.Source, target, m.Type, m.flags.ms, data); err != nil {
		return fmt.Errorf("mount %s: %w", m.Type, err)
	}
	crashpoint.At("mounted", target)
	if m.flags.ms&unix.MS_BIND == 0 || m.flags.ms&^(unix.MS_BIND|unix.MS_REC) == 0 && !m.flags.free {
		return nil
	}
	if err := unix.Mount("", target, "", m.flags.ms|unix.MS_REMOUNT, ""); err != nil { // a bind mount heeds flags only so
		return errors.Join(fmt.Errorf("remount: %w", err), unmount(target))
	}
	return nil
}

// fsmount makes a mount that is nowhere yet, with fsopen(2) and its kin, of kernel 5.2.
func (m mounting) fsmount(settings []setting) (at, error) {
	fd, err := unix.Fsopen(m.Type, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen %s: %w", m.Type, err)
	}
	defer unix.Close(fd)
	settings = append([]setting{{key: "source", value: m.Source}}, settings...)
	for _, s := range settings {
		if s.flag {
			err = unix.FsconfigSetFlag(fd, s.key)
		} else {
			err = unix.FsconfigSetString(fd, s.key, s.value)
		}
		if err != nil {
			return -1, fmt.Errorf("fsconfig %s=%s: %s%w", s.key, s.value, contextLog(fd), err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return -1, fmt.Errorf("fsconfig create %s: %s%w", m.Type, contextLog(fd), err)
	}
	made, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, m.flags.attr)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w", err)
	}
	return at(made), nil
}

// moveTo mounts d, a mount that is nowhere yet, at target.
func (d at) moveTo(target string) error {
	if err := unix.MoveMount(int(d), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// appendsLowerDirs tells whether overlayfs takes its lower directories one at a time
// (lowerdir+, kernel 6.8). Where it has not the calls of fsopen(2) of its own, before
// 6.5, it takes any word for an option, and complains in the kernel's log at the end.
var appendsLowerDirs = sync.OnceValue(func() bool {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.FsconfigSetString(fd, "berth-no-option", "/") != nil && unix.FsconfigSetString(fd, "lowerdir+", "/") == nil
})

// cloneTree returns a copy of the mount at target, which is nowhere yet.
func cloneTree(target string) (at, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, target, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return -1, fmt.Errorf("open_tree %s: %w", target, err)
	}
	return at(fd), nil
}

// idmapInPlace mounts dir on itself, with the map of the user namespace that the file
// userns is, for the calling thread's mount namespace.
func idmapInPlace(dir string, userns int) error {
	tree, err := cloneTree(dir)
	if err != nil {
		return err
	}
	defer tree.close()
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns)}
	if err := unix.MountSetattr(int(tree), "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("mount_setattr %s: MOUNT_ATTR_IDMAP: %w", dir, err)
	}
	return tree.moveTo(dir)
}

// apply gives tree, a mount that is nowhere yet, the flags and no others, and the map of
// the user namespace that the file userns is.
func (f mountFlags) apply(tree at, userns int) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP | uint64(f.attr), Userns_fd: uint64(userns)}
	if f.free {
		attr.Attr_clr = (unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC) &^ uint64(f.attr)
	}
	return os.NewSyscallError("mount_setattr", unix.MountSetattr(int(tree), "", unix.AT_EMPTY_PATH, &attr))
}

// clone has size bytes of to, from its beginning on, be those of from at offset, without
// copying them (FICLONERANGE). All three are multiples of the file system's block.
func clone(to, from *os.File, offset, size int64) error {
	return unix.IoctlFileCloneRange(int(to.Fd()), &unix.FileCloneRange{
		Src_fd: int64(from.Fd()), Src_offset: uint64(offset), Src_length: uint64(size),
	})
}

// afterNow returns when files that change from then on are dated later than t: the clock
// that dates them goes in steps of some milliseconds.
func afterNow(t time.Time) error {
	for {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now); err != nil {
			return os.NewSyscallError("clock_gettime", err)
		}
		if step := t.Sub(time.Unix(now.Unix())); step < 0 || step > time.Second { // or the clock was set back
			return nil
		}
		if err := unix.Nanosleep(&unix.Timespec{Nsec: 500_000}, nil); err != nil && err != unix.EINTR {
			return os.NewSyscallError("nanosleep", err)
		}
	}
}

// withOwnMounts runs f on a thread with a mount namespace of its own, which ends with f:
// what f mounts is seen by nobody else, save through descriptors.
//
// The goroutine takes its thread there and never unlocks it, so the thread ends with it.
// The process's first thread cannot end, and shows its namespaces as the process's own: a
// goroutine that finds itself there keeps it busy while another one does the work.
func withOwnMounts(f func() error) error {
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

// unmount takes the topmost mount off target; errNotMounted when there is none.
func unmount(target string) error {
	err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
	if err == unix.EBUSY {
		err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err == unix.EINVAL || err == unix.ENOENT || err == unix.ENOTDIR {
		return errNotMounted
	}
	crashpoint.At("unmounted", target)
	return err
}

// isNoBlockDevice says that a file system is mounted from block devices only.
func isNoBlockDevice(err error) bool { return errors.Is(err, unix.ENOTBLK) }
