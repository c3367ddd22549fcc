package pidfd

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrUnknown: the process has ended, and nobody can say how.
var ErrUnknown = errors.New("how the process has ended is not known")

// A Handle is a process. The zero value is none, and has ended.
type Handle struct{ f *os.File }

// Open opens a process that cannot become another one's meanwhile: a child that has not
// been waited for.
func Open(pid int) (Handle, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK) // so that the poller takes it
	if err != nil {
		return Handle{}, fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	return Handle{os.NewFile(uintptr(fd), "pidfd")}, nil
}

// Take is the process of f, a pidfd. f is the handle's from now on.
func Take(f *os.File) Handle { return Handle{f} }

// File is the descriptor itself, the handle's own; nil when there is none.
func (h Handle) File() *os.File { return h.f }

// Close closes the descriptor.
func (h Handle) Close() {
	if h.f != nil {
		h.f.Close()
	}
}

// control runs fn with the descriptor.
func (h Handle) control(fn func(fd int) error) error {
	if h.f == nil {
		return os.ErrProcessDone
	}
	rc, err := h.f.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := rc.Control(func(fd uintptr) { ferr = fn(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// Signal sends sig. A process that has ended is os.ErrProcessDone.
func (h Handle) Signal(sig int) error {
	err := h.control(func(fd int) error { return unix.PidfdSendSignal(fd, unix.Signal(sig), nil, 0) })
	if errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrClosed) {
		return os.ErrProcessDone
	}
	return os.NewSyscallError("pidfd_send_signal", err)
}

// WaitEnd waits until the process has ended. A child is then still to be waited for.
func (h Handle) WaitEnd() {
	if h.f == nil {
		return
	}
	rc, err := h.f.SyscallConn()
	if err != nil {
		return
	}
	_ = rc.Read(func(fd uintptr) bool { return ended(int(fd)) })
}

// A Watch waits for the ends of many processes, at the price of one goroutine.
type Watch struct {
	fd int // of epoll(7)
	rc syscall.RawConn

	mu   sync.Mutex
	then map[int32]func() // by descriptor
}

// NewWatch makes a Watch, which lasts as long as the program.
func NewWatch() (*Watch, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that the poller takes it
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(fd), "epoll")
	w := &Watch{fd: fd, then: map[int32]func(){}}
	if w.rc, err = f.SyscallConn(); err != nil {
		f.Close()
		return nil, err
	}
	go w.run()
	return w, nil
}

// OnEnd has then called, in a goroutine of its own, when the process has ended. A child is then
// still to be waited for. The handle stays open until then.
func (w *Watch) OnEnd(h Handle, then func()) {
	err := h.control(func(fd int) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		err := unix.EpollCtl(w.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
		if err == nil {
			w.then[int32(fd)] = then
		}
		return err
	})
	if err != nil { // it has ended, or the kernel has no room for another (ENOSPC): a goroutine has
		go func() {
			h.WaitEnd()
			then()
		}()
	}
}

// run hears of ends.
func (w *Watch) run() {
	var events [16]unix.EpollEvent
	_ = w.rc.Read(func(uintptr) bool {
		for {
			n, err := unix.EpollWait(w.fd, events[:], 0)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if n <= 0 {
				return false
			}
			for _, e := range events[:n] {
				w.hasEnded(e.Fd)
			}
		}
	})
}

func (w *Watch) hasEnded(fd int32) {
	w.mu.Lock()
	then := w.then[fd]
	delete(w.then, fd)
	w.mu.Unlock()
	_ = unix.EpollCtl(w.fd, unix.EPOLL_CTL_DEL, int(fd), nil) // while it is still open: others may have the process open too
	if then != nil {
		go then()
	}
}

// HasEnded tells whether the process has ended.
func (h Handle) HasEnded() bool {
	over := true
	err := h.control(func(fd int) error {
		over = ended(fd)
		return nil
	})
	return err != nil || over
}

// ended tells whether the process has ended, with all its threads. Whose child it is makes
// no difference, as it does to waitid(2).
func ended(fd int) bool {
	n, err := poll(fd, unix.POLLIN, 0)
	return n > 0 || err != nil
}

// poll is poll(2) of one descriptor.
func poll(fd int, events int16, limit time.Duration) (int, error) {
	deadline := time.Now().Add(limit)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, int(max(0, time.Until(deadline)).Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// Wait waits for a process that has ended, and tells how. A child of ours is taken away.
// Another's is to be taken away by its parent, for which it has until limit; then the kernel
// says how it ended, from Linux 6.15 on. Otherwise ErrUnknown.
func (h Handle) Wait(limit time.Duration) (unix.WaitStatus, error) {
	var ws unix.WaitStatus
	err := h.control(func(fd int) error {
		var err error
		ws, err = waitChild(fd)
		if !errors.Is(err, unix.ECHILD) {
			return err
		}
		if _, err := poll(fd, 0, limit); err != nil { // POLLHUP: it has been taken away
			return err
		}
		ws, err = exitStatus(fd)
		return err
	})
	return ws, err
}

// waitChild takes away a child that has ended.
func waitChild(fd int) (unix.WaitStatus, error) {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PIDFD, fd, &info, unix.WEXITED, nil)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) { // EAGAIN: it has not ended yet, and the descriptor does not block
			if _, err := poll(fd, unix.POLLIN, time.Second); err != nil {
				return 0, err
			}
			continue
		}
		if err != nil {
			return 0, err
		}
		return statusOf(&info), nil
	}
}

// sigchld is the part of a siginfo_t that waitid(2) fills in (sigaction(2)).
type sigchld struct {
	signo, errno, code int32
	_                  int32
	pid, uid, status   int32
}

// statusOf is what wait4(2) would have given.
func statusOf(info *unix.Siginfo) unix.WaitStatus {
	s := (*sigchld)(unsafe.Pointer(info))
	const exited, dumped = 1, 3 // CLD_EXITED, CLD_DUMPED
	switch s.code {
	case exited:
		return unix.WaitStatus(uint32(s.status) << 8)
	case dumped:
		return unix.WaitStatus(uint32(s.status) | 0x80)
	}
	return unix.WaitStatus(uint32(s.status))
}

// exitStatus asks the kernel how a process ended that has been taken away.
func exitStatus(fd int) (unix.WaitStatus, error) {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.PIDFD_GET_INFO, uintptr(unsafe.Pointer(&info)))
	if errno != 0 {
		return 0, fmt.Errorf("%w: ioctl(PIDFD_GET_INFO): %w", ErrUnknown, errno)
	}
	if info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return 0, ErrUnknown
	}
	return unix.WaitStatus(uint32(info.Exit_code)), nil
}
