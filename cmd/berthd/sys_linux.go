package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
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

// closeFolder has others neither list nor write to a folder of this process's own, whose mode may
// have been widened (CVE-2024-25621); they may pass, as pods with a user namespace must. What
// others could write to before is not to be believed, so that is an error, as is a folder of theirs.
func closeFolder(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return err
	}
	if int(st.Uid) != unix.Geteuid() {
		return fmt.Errorf("it is user %d's; chown it, or choose another", st.Uid)
	}
	if st.Mode&0o022 != 0 {
		return fmt.Errorf("others may write to it (mode %04o): what is in it may be theirs; choose another, or look at what is in it and chmod it to 0700", st.Mode&0o7777)
	}
	if st.Mode&0o044 == 0 {
		return nil
	}
	klog.InfoS("Others could list a folder; no more", "folder", dir, "mode", fmt.Sprintf("%04o", st.Mode&0o7777))
	return unix.Chmod(dir, st.Mode&0o7777&^0o066)
}

// heldNames tells why names in a folder are not safe from others than their owners: they may write to it,
// and it is not sticky, as /tmp is.
func heldNames(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Errorf("folder %s: %w", dir, err)
	}
	if st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 {
		return fmt.Errorf("folder %s: others may rename and remove what is in it (mode %04o); choose another", dir, st.Mode&0o7777)
	}
	return nil
}

// quitSignal asks for a dump.
const quitSignal = unix.SIGQUIT

// hangups asks for the SIGHUPs that come.
func hangups() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGHUP)
	return c
}

// ignoreHangup lets a closed terminal or a habit of reloading do no harm.
func ignoreHangup() { signal.Ignore(unix.SIGHUP) }
