// Package verity has the kernel watch over files that are not to change: fs-verity
// (Documentation/filesystems/fsverity.rst). A file that it watches cannot be written to any
// more, and what is read of it from the disk is compared with a tree of hashes: EIO when it
// is not what it was.
//
// A file is watched as a whole or not at all, whenever a crash comes. That is on disk when
// the file has been synced.
package verity

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrUnsupported says that this kernel (CONFIG_FS_VERITY) or this file system (ext4's
// feature verity; f2fs; btrfs) has no fs-verity.
var ErrUnsupported = errors.New("no fs-verity here")

// blockSize is of the tree of hashes, in bytes. It is not larger than a page, and than a
// block of the file system, on any machine.
const blockSize = 4096

// Enable has the kernel watch over the file at path, which nobody may have open for
// writing, and gives its digest. The kernel reads all of it. It may be called again.
func Enable(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	arg := unix.FsverityEnableArg{Version: 1, Hash_algorithm: unix.FS_VERITY_HASH_ALG_SHA256, Block_size: blockSize}
	if err := ioctl(f, unix.FS_IOC_ENABLE_VERITY, unsafe.Pointer(&arg)); err != nil && err != unix.EEXIST {
		return "", fmt.Errorf("fs-verity of %s: %w", path, err)
	}
	return digest(f)
}

// Digest is what Enable gave for the file at path; "" when the kernel does not watch it.
func Digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	d, err := digest(f)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, ErrUnsupported) {
		return "", nil
	}
	return d, err
}

// digest is the file's own, as fsverity-utils writes it.
func digest(f *os.File) (string, error) {
	var arg struct { // struct fsverity_digest
		algorithm, size uint16
		digest          [64]byte
	}
	arg.size = uint16(len(arg.digest))
	if err := ioctl(f, unix.FS_IOC_MEASURE_VERITY, unsafe.Pointer(&arg)); err != nil {
		return "", fmt.Errorf("fs-verity of %s: %w", f.Name(), err)
	}
	if arg.algorithm != unix.FS_VERITY_HASH_ALG_SHA256 {
		return "", fmt.Errorf("fs-verity of %s: hash %d", f.Name(), arg.algorithm)
	}
	return "sha256:" + hex.EncodeToString(arg.digest[:arg.size]), nil
}

// ioctl makes a call of f's. That there is no such call is ErrUnsupported.
func ioctl(f *os.File, call uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), call, uintptr(arg))
		runtime.KeepAlive(f)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		case unix.ENOTTY, unix.EOPNOTSUPP:
			return fmt.Errorf("%w: %w", ErrUnsupported, errno)
		default:
			return errno
		}
	}
}
