package oomevent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A Counter is a counter of the kernel's that can be waited for (eventfd(2)).
type Counter int

// Watch makes a counter of the notices about the memory cgroup of v1 at dir (Documentation/
// admin-guide/cgroup-v1/memory.rst, OOM Control). Close it.
func Watch(dir string) (Counter, error) {
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return -1, err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return -1, os.NewSyscallError("eventfd", err)
	}
	line := fmt.Sprintf("%d %d", fd, control.Fd())
	if err := os.WriteFile(filepath.Join(dir, "cgroup.event_control"), []byte(line), 0); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return Counter(fd), nil
}

// Wait waits for the counter to rise and takes what it has; ok is false when it did not.
func (c Counter) Wait(limit time.Duration) (n uint64, ok bool) {
	poll := []unix.PollFd{{Fd: int32(c), Events: unix.POLLIN}}
	if got, err := unix.Poll(poll, int(limit.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) || got == 0 && err == nil {
		return 0, false
	}
	var b [8]byte
	if _, err := unix.Read(int(c), b[:]); err != nil {
		return 0, errors.Is(err, unix.EAGAIN)
	}
	return binary.NativeEndian.Uint64(b[:]), true
}

// Close ends the counting.
func (c Counter) Close() { unix.Close(int(c)) }
