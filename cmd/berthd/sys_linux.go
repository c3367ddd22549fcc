package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"

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
func listenUnix(path string, mode uint32) (net.Listener, error) {
	old := unix.Umask(int(^mode & 0o777))
	defer unix.Umask(old)
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	return l, nil
}

// stopSignals end the daemon in good order.
func stopSignals() []os.Signal { return []os.Signal{unix.SIGTERM, unix.SIGINT} }

// ignoreHangup lets a closed terminal or a habit of reloading do no harm.
func ignoreHangup() { signal.Ignore(unix.SIGHUP) }
