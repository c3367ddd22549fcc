package api

import (
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// maxFiles is how many descriptors a message may bring.
const maxFiles = 4

// sendWith sends data with descriptors of files, and how much of data went.
func sendWith(conn *net.UnixConn, data []byte, files []*os.File) (int, error) {
	fds := make([]int, 0, len(files))
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for _, f := range files {
		fd, err := duplicate(f)
		if err != nil {
			return 0, err
		}
		fds = append(fds, fd)
	}
	n, _, err := conn.WriteMsgUnix(data, unix.UnixRights(fds...), nil)
	return n, err
}

// duplicate is a descriptor of its own for f, which may be closed meanwhile.
func duplicate(f *os.File) (int, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var serr error
	if err := rc.Control(func(old uintptr) {
		fd, serr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return -1, err
	}
	return fd, os.NewSyscallError("fcntl(F_DUPFD_CLOEXEC)", serr)
}

// Duplicate opens f a second time, with a life of its own.
func Duplicate(f *os.File) (*os.File, error) {
	fd, err := duplicate(f)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// receiveWith reads what has come, with the descriptors that came with it. They
// do not block.
func receiveWith(conn *net.UnixConn, p []byte) (n int, files []*os.File, err error) {
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := conn.ReadMsgUnix(p, oob) // it sets CLOEXEC
	if err != nil || oobn == 0 {
		return n, nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return n, nil, err
	}
	for i := range msgs {
		fds, ferr := unix.ParseUnixRights(&msgs[i])
		if ferr != nil {
			continue // something else than descriptors
		}
		for _, fd := range fds {
			err = errors.Join(err, unix.SetNonblock(fd, true)) // so that the poller takes it
			files = append(files, os.NewFile(uintptr(fd), "session"))
		}
	}
	if flags&unix.MSG_CTRUNC != 0 {
		err = errors.Join(err, errors.New("session: descriptors were lost: too many files are open"))
	}
	return n, files, err
}

// memoryFile makes a file that is nowhere.
func memoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
