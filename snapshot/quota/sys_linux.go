package quota

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"unsafe"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// The calls on a file's project, as linux/fs.h numbers them.
const (
	getXattr    = 2<<30 | unsafe.Sizeof(fsxattr{})<<16 | 'X'<<8 | 31 // FS_IOC_FSGETXATTR
	setXattr    = 1<<30 | unsafe.Sizeof(fsxattr{})<<16 | 'X'<<8 | 32 // FS_IOC_FSSETXATTR
	projInherit = 0x200                                              // FS_XFLAG_PROJINHERIT
)

// fsxattr is struct fsxattr.
type fsxattr struct {
	xflags, extsize, nextents, project, cowextsize uint32
	_                                              [8]byte
}

// The calls of quotactl(2) for projects, as linux/quota.h and linux/dqblk_xfs.h number
// them. XFS answers those of the other file systems too.
const (
	projects   = 2                        // PRJQUOTA
	getQuota   = 0x800007<<8 | projects   // Q_GETQUOTA
	setQuota   = 0x800008<<8 | projects   // Q_SETQUOTA
	getState   = ('X'<<8|8)<<8 | projects // Q_XGETQSTATV
	stateV1    = 1                        // FS_QSTATV_VERSION1
	accounted  = 1 << 4                   // FS_QUOTA_PDQ_ACCT
	enforced   = 1 << 5                   // FS_QUOTA_PDQ_ENFD
	limitBlock = 1 << 10                  // QIF_DQBLKSIZE
	haveLimits = 1                        // QIF_BLIMITS
)

// state is struct fs_quota_statv, as far as it matters.
type state struct {
	version int8
	_       uint8
	flags   uint16
	_       [156]byte
}

// dqblk is struct if_dqblk.
type dqblk struct {
	blockHard, blockSoft, space uint64 // limits in blocks of limitBlock
	inodeHard, inodeSoft        uint64
	inodes                      uint64
	_                           [2]uint64
	valid                       uint32
	_                           uint32
}

// kernel is the Ledger of the file system that dir is on.
type kernel struct {
	dir    string
	device string // where the kernel has no quotactl_fd
}

// Kernel is the account that the kernel keeps for the file system of the folder dir. It is
// ErrUnsupported where it keeps none of projects.
func Kernel(dir string) (Ledger, error) {
	k := kernel{dir: dir}
	_, err := k.Enforced()
	if errors.Is(err, unix.ENOSYS) && !knowsDescriptors() {
		if k.device, err = deviceOf(dir); err == nil {
			_, err = k.Enforced()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return k, nil
}

// knowsDescriptors tells whether the kernel has quotactl_fd.
func knowsDescriptors() bool {
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, ^uintptr(0), getState, 0, 0, 0, 0)
	return errno != unix.ENOSYS
}

// deviceOf finds the block device of the file system that dir is on.
func deviceOf(dir string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return "", &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	dev := uint64(st.Dev) //nolint:unconvert // the types differ by architecture
	major, minor := unix.Major(dev), unix.Minor(dev)
	found, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return i.Major != int(major) || i.Minor != int(minor), false
	})
	if err != nil {
		return "", err
	}
	names := []string{fmt.Sprintf("/dev/block/%d:%d", major, minor)}
	for _, m := range found {
		names = append(names, m.Source)
	}
	for _, name := range names {
		if unix.Stat(name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && uint64(st.Rdev) == dev { //nolint:unconvert // as above
			return name, nil
		}
	}
	return "", fmt.Errorf("no quotactl_fd (kernel 5.14), and no device of the file system of %s: %w", dir, fs.ErrNotExist)
}

// Enforced implements Ledger.
func (k kernel) Enforced() (bool, error) {
	s := state{version: stateV1}
	if err := k.call("Q_XGETQSTATV", getState, 0, unsafe.Pointer(&s)); err != nil {
		return false, err
	}
	if s.flags&accounted == 0 {
		return false, fmt.Errorf("%s: quotas of projects are off: %w", k.dir, ErrUnsupported)
	}
	return s.flags&enforced != 0, nil
}

// Entry implements Ledger.
func (k kernel) Entry(id uint32) (Entry, error) {
	var q dqblk
	err := k.call("Q_GETQUOTA", getQuota, id, unsafe.Pointer(&q))
	if errors.Is(err, unix.ENOENT) { // XFS has none of an ID that was never used
		return Entry{}, nil
	}
	if err != nil {
		return Entry{}, err
	}
	return Entry{
		Bytes: q.space, Inodes: q.inodes, Limit: q.blockHard * limitBlock,
		Limited: q.blockHard|q.blockSoft|q.inodeHard|q.inodeSoft != 0,
	}, nil
}

// SetLimit implements Ledger.
func (k kernel) SetLimit(id uint32, bytes uint64) error {
	q := dqblk{blockHard: bytes / limitBlock, valid: haveLimits}
	return k.call("Q_SETQUOTA", setQuota, id, unsafe.Pointer(&q))
}

// call opens dir each time: a descriptor that is kept would keep the file system busy.
func (k kernel) call(name string, cmd uintptr, id uint32, arg unsafe.Pointer) error {
	var errno unix.Errno
	if k.device != "" {
		device, err := unix.BytePtrFromString(k.device)
		if err != nil {
			return err
		}
		_, _, errno = unix.Syscall6(unix.SYS_QUOTACTL, cmd, uintptr(unsafe.Pointer(device)), uintptr(id), uintptr(arg), 0, 0)
	} else {
		dir, err := os.Open(k.dir)
		if err != nil {
			return err
		}
		defer dir.Close()
		_, _, errno = unix.Syscall6(unix.SYS_QUOTACTL_FD, dir.Fd(), cmd, uintptr(id), uintptr(arg), 0, 0)
	}
	if errno != 0 {
		return &fs.PathError{Op: "quotactl " + name, Path: k.dir, Err: errno}
	}
	return nil
}

// ProjectOf is the project that the folder dir is counted to, and whether what is made in
// it is too. Where the file system knows no projects it is an error.
func ProjectOf(dir string) (id uint32, inherited bool, err error) {
	x, err := xattrOf(dir, func(int, fsxattr) error { return nil })
	return x.project, x.xflags&projInherit != 0, err
}

// setProject counts the folder dir, and what is made in it from now on, to a project.
func setProject(dir string, id uint32) error {
	_, err := xattrOf(dir, func(fd int, x fsxattr) error {
		x.project, x.xflags = id, x.xflags|projInherit
		return ioctl(fd, setXattr, &x)
	})
	return err
}

// xattrOf reads the project and flags of the folder dir, and calls then with its descriptor.
// A symbolic link is not followed.
func xattrOf(dir string, then func(fd int, x fsxattr) error) (x fsxattr, err error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		if err = ioctl(fd, getXattr, &x); err == nil {
			err = then(fd, x)
		}
	}
	if err != nil {
		return x, &fs.PathError{Op: "project ID", Path: dir, Err: err}
	}
	return x, nil
}

func ioctl(fd int, call uintptr, x *fsxattr) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), call, uintptr(unsafe.Pointer(x))); errno != 0 {
		return errno
	}
	return nil
}
