package successor

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// Number is the descriptor of a file, which keeps it over Exec. It is the file's for as long
// as that is open.
func Number(f *os.File) (int, error) {
	n := -1
	rc, err := f.SyscallConn()
	if err == nil {
		err = rc.Control(func(fd uintptr) { n = int(fd) })
	}
	if err != nil {
		return -1, fmt.Errorf("descriptor of %s: %w", f.Name(), err)
	}
	return n, nil
}

// Exec executes the program at path, which gets files under the descriptors that they have
// (Number), and the process's standard streams. args does not have the program's name. The
// signals that would end a program which has not asked for them yet are dropped meanwhile.
// It returns only when it has failed; then heed is called, which asks for signals again.
func Exec(path string, args, env []string, files []*os.File, heed func()) error {
	var limit unix.Rlimit // package syscall lowers it again for what is executed
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	syscall.ForkLock.Lock() // a child would get the files as well
	defer syscall.ForkLock.Unlock()
	for _, f := range files {
		if err := pass(f, 0); err != nil {
			return err
		}
		defer func() { _ = pass(f, unix.FD_CLOEXEC) }()
	}
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGTERM) // as executing leaves handlers, and not this, behind
	err := syscall.Exec(path, append([]string{path}, args...), env)
	heed()
	if lerr := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); lerr != nil {
		return fmt.Errorf("execute %s: %w; then setrlimit: %w", path, err, lerr)
	}
	return fmt.Errorf("execute %s: %w", path, err)
}

// pass sets the descriptor's flags (F_SETFD).
func pass(f *os.File, flags int) error {
	fd, err := Number(f)
	if err != nil {
		return err
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, flags); err != nil {
		return fmt.Errorf("%s: fcntl(F_SETFD): %w", f.Name(), err)
	}
	return nil
}
