package powercut

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// cloneFile makes the new file to a clone of from, all of it as it is at one moment:
// writes wait meanwhile.
func cloneFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer dst.Close()
	return os.NewSyscallError("FICLONE", unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())))
}

// A counter writes a growing number to the first block of a device, and then to another
// one, past the page cache, until stopped is closed.
func counter(device string, second int64, stopped <-chan struct{}) error {
	f, err := os.OpenFile(device, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	block, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(block) }()
	for n := uint64(1); ; n++ {
		select {
		case <-stopped:
			return nil
		default:
		}
		binary.LittleEndian.PutUint64(block, n)
		for _, offset := range []int64{0, second} {
			if _, err := f.WriteAt(block, offset); err != nil {
				return err
			}
		}
	}
}

// inode tells how many names a file has, and which file of its file system it is.
func inode(fi os.FileInfo) (ino, nlink uint64, uid, gid uint32, rdev uint64) {
	st := fi.Sys().(*syscall.Stat_t)
	return st.Ino, uint64(st.Nlink), st.Uid, st.Gid, uint64(st.Rdev) //nolint:unconvert // the types differ by architecture
}

func device(major, minor int64) uint64 { return unix.Mkdev(uint32(major), uint32(minor)) }

// userXattrs reads the extended attributes user.* of a file.
func userXattrs(path string) (map[string]string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	value := make([]byte, 64<<10)
	for _, key := range strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 }) {
		if !strings.HasPrefix(key, "user.") {
			continue
		}
		n, err := unix.Lgetxattr(path, key, value)
		if err != nil {
			return nil, err
		}
		out[key] = string(value[:n])
	}
	return out, nil
}

// mountNamespace names that of a process.
func mountNamespace(pid int) (string, error) {
	return os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "ns/mnt"))
}

// powerOff kills what is left in a mount namespace, by its PIDs. Its mounts go with it.
func powerOff(t *testing.T, namespace string) (killed int) {
	t.Helper()
	for again := true; again; {
		again = false
		found, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range found {
			pid, err := strconv.Atoi(filepath.Base(dir))
			if err != nil {
				continue
			}
			if own, err := mountNamespace(pid); err != nil || own != namespace {
				continue // gone, or none of ours
			}
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				continue
			}
			if own, err := mountNamespace(pid); err == nil && own == namespace {
				_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
				_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
				killed++
				again = true
			}
			unix.Close(fd)
		}
	}
	return killed
}
