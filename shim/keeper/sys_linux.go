package keeper

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// unknownExit stands for the exit code of a process that could not be waited for.
const unknownExit = 255

// exitCode says how a process ended: its code, or 128 + signal and whether that
// was SIGKILL.
func exitCode(st *os.ProcessState) (code int32, killed bool) {
	if st == nil {
		return unknownExit, false
	}
	ws, ok := st.Sys().(syscall.WaitStatus)
	if !ok {
		return unknownExit, false
	}
	return codeOfStatus(unix.WaitStatus(ws))
}

// codeOfStatus is exitCode of what wait4(2) says.
func codeOfStatus(ws unix.WaitStatus) (code int32, killed bool) {
	if ws.Signaled() {
		return 128 + int32(ws.Signal()), ws.Signal() == unix.SIGKILL
	}
	return int32(ws.ExitStatus()), false
}

// codeOfRaw is exitCode of a wait4(2) that another process has made.
func codeOfRaw(status uint32) (code int32, killed bool) { return codeOfStatus(unix.WaitStatus(status)) }

// kill sends SIGKILL to a process, if it is still there.
func kill(pid int) { signalPid(pid, sigkill) }

// sigkill is the signal that no process can refuse.
const sigkill = int(unix.SIGKILL)

// isBusy is the error of removing a cgroup with processes in it.
func isBusy(err error) bool { return errors.Is(err, unix.EBUSY) }

// isInvalidValue is the error of writing into a cgroup what the kernel takes for no
// possible value of the file.
func isInvalidValue(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ERANGE)
}

// gone is the error of reading a cgroup that has just been removed.
func gone(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) }

// goneProcess is the error of asking for a process that has ended.
func goneProcess(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// isExhausted tells the node's want of space or descriptors from what is wrong with
// a container.
func isExhausted(err error) bool {
	for _, errno := range [...]error{unix.ENOSPC, unix.EDQUOT, unix.EMFILE, unix.ENFILE} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// hasZombie reports whether some child has died and not been waited for.
func hasZombie() bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err == nil && info.Signo != 0
}

// becomeReaper makes orphans of containers our children, and gives this process
// signal handlers, which unlike ignored signals are not inherited by the
// containers, for the signals that must not end it. died tells of dead children,
// asked of a SIGTERM. heed asks for the handlers again, after others were set.
func becomeReaper() (died, asked chan os.Signal, heed func(), err error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, nil, nil, os.NewSyscallError("prctl(PR_SET_CHILD_SUBREAPER)", err)
	}
	died, asked = make(chan os.Signal, 1), make(chan os.Signal, 1)
	unheard := make(chan os.Signal, 1)
	heed = func() {
		signal.Notify(died, unix.SIGCHLD)
		signal.Notify(asked, unix.SIGTERM)
		signal.Notify(unheard, unix.SIGHUP, unix.SIGINT, unix.SIGPIPE)
	}
	heed()
	return died, asked, heed, nil
}

// readReady reads f into a buffer of pool's, which it takes only when there is
// something to read: a container that says nothing costs no buffer. The buffer is
// the caller's to put back, whatever the error. Zero bytes without an error are
// the end.
func readReady(f *os.File, pool *bufferPool) (buf *[]byte, n int, err error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, 0, err
	}
	rerr := rc.Read(func(fd uintptr) bool {
		buf = pool.get()
		for {
			n, err = unix.Read(int(fd), *buf)
			if !errors.Is(err, unix.EINTR) {
				break
			}
		}
		if errors.Is(err, unix.EAGAIN) {
			pool.put(buf)
			buf = nil
			return false
		}
		return true
	})
	if rerr != nil {
		return buf, 0, rerr
	}
	return buf, max(n, 0), err
}

// inherited makes a file of a descriptor that was inherited; nil when there is none. It goes
// to no child.
func inherited(fd int, name string) *os.File {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return nil
	}
	_ = unix.SetNonblock(fd, true) // so that the poller takes it; a file that cannot does without
	return os.NewFile(uintptr(fd), name)
}

// lastingPipe is a pipe whose writing end reads as well: as long as a process has it the pipe has a
// reader. When all others are dead, what it writes waits for reopenPipe, and does not end it
// (SIGPIPE). A process that reads from it keeps its own output from its log, and nothing else.
func lastingPipe() (r, w *os.File, err error) {
	r, end, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer end.Close()
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", end.Fd()), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		r.Close()
		return nil, nil, os.NewSyscallError("open", err)
	}
	return r, os.NewFile(uintptr(fd), "|1"), nil
}

// reopenPipe opens the pipe that a process has as its descriptor fd once more, to read from.
// One that is not of that inode any more, or not there, is a stream at its end.
func reopenPipe(pid, fd int, ino uint64) *os.File {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", pid, fd), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err == nil && ino != 0 && inode(f) == ino {
		return f
	}
	if err == nil {
		f.Close()
	}
	return endedStream()
}

// endedStream is a stream at its end.
func endedStream() *os.File {
	r, w, err := os.Pipe()
	if err != nil {
		return os.NewFile(^uintptr(0), "ended") // reading it is an error, which is an end too
	}
	w.Close()
	return r
}

// inode names a pipe, 0 when it cannot be told.
func inode(f *os.File) uint64 {
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return 0
	}
	return st.Ino
}

// writeNow writes what a pipe has room for, without waiting.
func writeNow(f *os.File, p []byte) (n int, err error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var werr error
	err = rc.Write(func(fd uintptr) bool {
		for {
			n, werr = unix.Write(int(fd), p)
			if !errors.Is(werr, unix.EINTR) {
				return true
			}
		}
	})
	if errors.Is(werr, unix.EAGAIN) {
		werr = nil
	}
	return max(n, 0), errors.Join(err, werr)
}

// widen gives a pipe more room. One that cannot have it does with what it has.
func widen(f *os.File, size int) {
	rc, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = rc.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, size) })
}

// consolePair makes the socket over which libcontainer sends a terminal's
// master.
func consolePair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "console"), os.NewFile(uintptr(fds[1]), "console"), nil
}

// recvMaster receives a terminal's master. The other side has sent it, or is
// closed, when this is called.
func recvMaster(sock *os.File) (*os.File, error) {
	rc, err := sock.SyscallConn()
	if err != nil {
		return nil, err
	}
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	var oobn int
	var rerr error
	if err := rc.Control(func(fd uintptr) {
		_, oobn, _, _, rerr = unix.Recvmsg(int(fd), name, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	}); err != nil {
		return nil, err
	}
	if rerr != nil {
		return nil, fmt.Errorf("terminal: recvmsg: %w", rerr)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return nil, errors.New("terminal: no descriptor came")
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.New("terminal: no descriptor came")
	}
	if err := unix.SetNonblock(fds[0], true); err != nil { // so that the poller takes it
		unix.Close(fds[0])
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fds[0]), "ptmx"), nil
}

// resize sets a terminal's size in characters.
func resize(master *os.File, width, height uint16) error {
	rc, err := master.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := rc.Control(func(fd uintptr) {
		serr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height})
	}); err != nil {
		return err
	}
	return os.NewSyscallError("ioctl(TIOCSWINSZ)", serr)
}

// rootPeer is the handshake of the server: only root may connect.
func rootPeer(_ context.Context, conn net.Conn) error {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("not a unix socket")
	}
	rc, err := uc.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var serr error
	if err := rc.Control(func(fd uintptr) {
		cred, serr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if serr != nil {
		return os.NewSyscallError("getsockopt(SO_PEERCRED)", serr)
	}
	if cred.Uid != 0 {
		return fmt.Errorf("peer has user ID %d: %w", cred.Uid, os.ErrPermission)
	}
	return nil
}

// signalPid sends sig to a process that was in a cgroup a moment ago.
func signalPid(pid, sig int) { _ = unix.Kill(pid, unix.Signal(sig)) }

// writeOnce writes to a file of the kernel's that answers EAGAIN for good
// (memory.reclaim, when less could be reclaimed than was asked for): such files can
// be polled, so Go's own write would wait until it may be tried again, which is never.
func writeOnce(path, text string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// KeepDescriptors has no child of this process get a descriptor, from the third on, that it is
// not given: not those either that whoever started this process let through (CVE-2024-21626
// began with one). It is called once, at the start.
func KeepDescriptors() error {
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("closing descriptors on exec: %w", err)
	}
	return nil
}
