package logfile

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapLedger maps the ledger at path and makes it if need be. Its block is there before
// it is written, so that a full file system cannot end the process (SIGBUS).
func mapLedger(path string) (*ledger, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	size := int(unsafe.Sizeof(page{}))
	if err := unix.Fallocate(fd, 0, 0, int64(size)); err != nil {
		return nil, &os.PathError{Op: "fallocate", Path: path, Err: err}
	}
	mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, &os.PathError{Op: "mmap", Path: path, Err: err}
	}
	return &ledger{p: (*page)(unsafe.Pointer(&mem[0])), mem: mem}, nil
}

// unmap ends the use of a ledger.
func (l *ledger) unmap() {
	l.p = new(page)
	if l.mem != nil {
		_ = unix.Munmap(l.mem)
		l.mem = nil
	}
}

// memory makes a file that is nowhere but in memory.
func memory(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// punch gives back a part's memory. A file system that cannot keeps it until the
// spool is empty.
func punch(f *os.File, at, size int64) {
	_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, size)
}

// isPipe tells whether f can be spliced from to a file.
func isPipe(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeNamedPipe != 0
}

// growPipe has a pipe hold bigPipe bytes.
func growPipe(f *os.File) { pipeCtl(f, unix.F_SETPIPE_SZ, bigPipe) }

// pipeRoom is what a pipe holds, in bytes; 0 if f is none. Who writes to it can change it.
func pipeRoom(f *os.File) int64 { return pipeCtl(f, unix.F_GETPIPE_SZ, 0) }

func pipeCtl(f *os.File, cmd, arg int) (size int64) {
	rc, err := f.SyscallConn() // Fd would have reads block
	if err != nil {
		return 0
	}
	_ = rc.Control(func(fd uintptr) {
		if n, err := unix.FcntlInt(fd, cmd, arg); err == nil {
			size = int64(n)
		}
	})
	return size
}

// take moves what src, a pipe, holds to the spool's end, and waits for something to move.
// Zero bytes without an error are the end.
func (s *spool) take(src *os.File) (n int64, err error) {
	return spliceReady(src, func(fd int) (int64, error) { return s.splice(fd) })
}

// takeNow is take without waiting: an empty pipe is os.ErrDeadlineExceeded.
func (s *spool) takeNow(src *os.File) (n int64, err error) {
	rc, err := src.SyscallConn()
	if err != nil {
		return 0, err
	}
	if rerr := rc.Control(func(fd uintptr) { n, err = s.splice(int(fd)) }); rerr != nil {
		return 0, rerr
	}
	if errors.Is(err, unix.EAGAIN) {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

func (s *spool) splice(from int) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.size
	n, err := unix.Splice(from, nil, int(s.f.Fd()), &at, bigPipe, unix.SPLICE_F_NONBLOCK)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Splice(from, nil, int(s.f.Fd()), &at, bigPipe, unix.SPLICE_F_NONBLOCK)
	}
	s.size += max(n, 0)
	return max(n, 0), err
}

// carry moves what src, a terminal, says into a pipe.
func carry(src, ferry *os.File) (int64, error) {
	to := int(ferry.Fd())
	return spliceReady(src, func(fd int) (int64, error) {
		return unix.Splice(fd, nil, to, nil, pipeSize, unix.SPLICE_F_NONBLOCK)
	})
}

// spliceReady waits until src is ready for move.
func spliceReady(src *os.File, move func(fd int) (int64, error)) (n int64, err error) {
	rc, err := src.SyscallConn()
	if err != nil {
		return 0, err
	}
	rerr := rc.Read(func(fd uintptr) bool {
		for {
			n, err = move(int(fd))
			if !errors.Is(err, unix.EINTR) {
				break
			}
		}
		return !errors.Is(err, unix.EAGAIN)
	})
	if rerr != nil {
		return 0, rerr
	}
	return max(n, 0), err
}

// readReady reads src, which is not spliced, into a buffer of pool's, which it takes only when
// there is something to read. The buffer is the caller's to put back, whatever the error.
func readReady(src *os.File, pool *sync.Pool) (buf *[]byte, n int, err error) {
	m, err := spliceReady(src, func(fd int) (int64, error) {
		if buf == nil {
			buf = pool.Get().(*[]byte)
		}
		n, err := unix.Read(fd, *buf)
		if errors.Is(err, unix.EAGAIN) {
			pool.Put(buf)
			buf = nil
		}
		return int64(n), err
	})
	return buf, int(m), err
}

// unspliced tells that a file cannot be spliced from.
func unspliced(err error) bool { return errors.Is(err, unix.EINVAL) }

// noRoom tells that a spool's file system cannot take more.
func noRoom(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EROFS) || errors.Is(err, unix.ENOMEM)
}

// hangup is what reading a terminal's master gives when nobody has its other
// side open.
func hangup(err error) bool { return errors.Is(err, unix.EIO) }

// errnoOf is the number of an error of the kernel, for the ledger.
func errnoOf(err error) int64 {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return int64(errno)
	}
	return int64(unix.EIO)
}

func errnoText(n int64) string { return unix.Errno(n).Error() }

// open opens a log file for appending, with flags more. It follows no symbolic link and takes
// nothing but a regular file: the folder may be mounted into a container.
func open(path string, create bool) (*os.File, error) {
	flags := unix.O_RDWR | unix.O_APPEND | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	if create {
		flags |= unix.O_CREAT
	}
	fd, err := unix.Open(path, flags, 0o640)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "fcntl", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// A fileInfo is what matters of a log file.
type fileInfo struct {
	id    fileID
	size  int64
	links uint64
}

func inspect(f *os.File) (fileInfo, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fileInfo{}, os.NewSyscallError("fstat", err)
	}
	return fileInfo{fileID{st.Dev, st.Ino}, st.Size, uint64(st.Nlink)}, nil
}

// inspectPath does not follow symbolic links.
func inspectPath(path string) (fileInfo, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fileInfo{}, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return fileInfo{fileID{st.Dev, st.Ino}, st.Size, uint64(st.Nlink)}, nil
}
