package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// errLocked is returned for a lock that another process holds.
var errLocked = errors.New("locked by another process")

// lockFile takes the lock at path; it is held until the file is closed, however
// the process ends.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// listenUnix makes a unix socket that has its mode from the start.
func listenUnix(path string, mode uint32) (*net.UnixListener, error) {
	old := unix.Umask(int(^mode & 0o777))
	defer unix.Umask(old)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	return l, nil
}

// waiting tells whether somebody has connected to l who is not accepted yet.
func waiting(l *net.UnixListener) (bool, error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return false, err
	}
	var n int
	var perr error
	err = raw.Control(func(fd uintptr) {
		n, perr = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	})
	return n > 0, errors.Join(err, perr)
}

// notifyWith sends a message to systemd with a descriptor, as sd_pid_notify_with_fds(3) does.
func notifyWith(socket, message string, c syscall.Conn) error {
	to, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		serr = unix.Sendmsg(to, []byte(message), unix.UnixRights(int(fd)), &unix.SockaddrUnix{Name: socket}, unix.MSG_NOSIGNAL)
	})
	return errors.Join(err, serr)
}

// peerUID is the user ID of who connected.
func peerUID(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var serr error
	err = raw.Control(func(fd uintptr) {
		cred, serr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, serr); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

// ownFolder tells why the names in a folder are not this process's alone to give: others could
// put a socket of theirs in place of its own.
func ownFolder(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Errorf("folder %s: %w", dir, err)
	}
	if int(st.Uid) != unix.Geteuid() || st.Mode&0o022 != 0 {
		return fmt.Errorf("folder %s: others may write to it; choose another, or one that is not there yet", dir)
	}
	return nil
}

// stopSignals end the daemon in good order.
func stopSignals() []os.Signal { return []os.Signal{unix.SIGTERM, unix.SIGINT} }

// ignoreHangup lets a closed terminal or a habit of reloading do no harm.
func ignoreHangup() { signal.Ignore(unix.SIGHUP) }
