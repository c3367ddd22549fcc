package ociruntime

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ownGroup has a program killed with its helpers when its time is over, and the program
// when the calling thread ends: one that outlives us makes a container that nobody knows
// of. The container's processes are in sessions of their own.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
}

// A console is a socket that a program is to send a terminal's master to.
type console struct {
	dir *os.File
	ln  *net.UnixListener
}

// consoleLimit is how long the master may take once the program has ended well.
const consoleLimit = 5 * time.Second

// newConsole listens in dir. A socket's path has at most 107 bytes, so it goes by the
// descriptor of the folder.
func newConsole(dir string) (*console, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	c := &console{dir: os.NewFile(uintptr(fd), dir)}
	if c.ln, err = net.ListenUnix("unix", &net.UnixAddr{Name: c.path(), Net: "unix"}); err != nil {
		c.dir.Close()
		return nil, err
	}
	return c, nil
}

// path is the socket's, for every process of this PID namespace.
func (c *console) path() string { return fmt.Sprintf("/proc/%d/fd/%d/tty", os.Getpid(), c.dir.Fd()) }

func (c *console) close() {
	c.ln.Close()
	c.dir.Close()
}

// forward hands the master that came on to the socket to.
func (c *console) forward(to *os.File) error {
	_ = c.ln.SetDeadline(time.Now().Add(consoleLimit))
	conn, err := c.ln.AcceptUnix()
	if err != nil {
		return fmt.Errorf("%w: it sent no terminal: %w", ErrBroken, err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(consoleLimit))
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, oobn, _, _, err := conn.ReadMsgUnix(name, oob)
	if err != nil {
		return fmt.Errorf("%w: it sent no terminal: %w", ErrBroken, err)
	}
	master, err := descriptor(oob[:oobn])
	if err != nil {
		return err
	}
	defer unix.Close(master)
	rc, err := to.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = rc.Control(func(fd uintptr) { serr = unix.Sendmsg(int(fd), []byte("ptmx"), unix.UnixRights(master), nil, 0) })
	return errors.Join(err, os.NewSyscallError("sendmsg", serr))
}

// descriptor is the one descriptor of a message.
func descriptor(oob []byte) (int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(msgs) != 1 {
		return 0, fmt.Errorf("%w: it sent no terminal", ErrBroken)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return 0, fmt.Errorf("%w: it sent no terminal", ErrBroken)
	}
	return fds[0], nil
}
