package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"k8s.io/klog/v2"
)

// Sockets are those that berthd listens on. systemd keeps them while berthd is restarted or
// has crashed (FDSTORE, sd_notify(3), FileDescriptorStoreMax= in the unit): who connects
// meanwhile waits for the next daemon. A service that is stopped loses them, and so does one
// whose berthd ends with an error, as it may do so again: nobody is to wait for that. Sockets
// of a socket unit are taken in the same way (sd_listen_fds(3)), by their addresses.
//
// Without systemd nothing is kept.
type sockets struct {
	manager string // NOTIFY_SOCKET; "": nobody keeps anything
	kept    []*keptSocket
}

// A keptSocket is one that this process was started with.
type keptSocket struct {
	name     string // as FDNAME
	listener net.Listener
	taken    bool
}

// receiveSockets takes what systemd has kept. A descriptor that is no listening socket is
// closed.
func receiveSockets() (*sockets, error) {
	s := &sockets{manager: os.Getenv("NOTIFY_SOCKET")}
	for _, f := range activation.Files(true) {
		l, err := net.FileListener(f)
		name := f.Name()
		if err := f.Close(); err != nil {
			return nil, fmt.Errorf("socket %s: %w", name, err)
		}
		if err != nil {
			klog.ErrorS(err, "systemd keeps what is no listening socket; it is let go", "name", name)
			forgetSockets(name)
			continue
		}
		s.kept = append(s.kept, &keptSocket{name: name, listener: l})
	}
	return s, nil
}

// take finds a kept socket that is fit, by its address.
func (s *sockets) take(network string, fit func(net.Addr) bool) *keptSocket {
	for _, k := range s.kept {
		if a := k.listener.Addr(); !k.taken && a.Network() == network && fit(a) {
			k.taken = true
			return k
		}
	}
	return nil
}

// unix listens at path: on the kept socket if the file there is still its own. option is
// what says where the socket is, for errors.
func (s *sockets) unix(ctx context.Context, name, path, option string) (*rootListener, error) {
	if k := s.take("unix", func(a net.Addr) bool { return a.String() == path }); k != nil {
		if l, ok := k.listener.(*net.UnixListener); ok && leadsTo(ctx, path, l) {
			return &rootListener{UnixListener: l}, nil
		}
		s.drop(k)
	}
	s.dropNamed(name)
	l, err := listen(ctx, path, option)
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(!s.keep(name, l))
	return &rootListener{UnixListener: l}, nil
}

// leadsTo tells whether who connects at path comes to l. Whoever removed the file, or put
// another in its place, has left l where nobody finds it.
func leadsTo(ctx context.Context, path string, l *net.UnixListener) bool {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
	if err != nil {
		return false
	}
	defer conn.Close()
	there, err := waiting(l)
	return err == nil && there
}

// tcp listens at address, host:port. With port 0 that of the kept socket will do.
func (s *sockets) tcp(ctx context.Context, name, address string) (net.Listener, error) {
	if want, err := net.ResolveTCPAddr("tcp", address); err == nil {
		k := s.take("tcp", func(a net.Addr) bool {
			is, ok := a.(*net.TCPAddr)
			return ok && (is.IP.Equal(want.IP) || want.IP == nil && is.IP.IsUnspecified()) && (is.Port == want.Port || want.Port == 0)
		})
		if k != nil {
			return k.listener, nil
		}
	}
	s.dropNamed(name)
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if c, ok := l.(syscall.Conn); ok {
		s.keep(name, c)
	}
	return l, nil
}

// keep has systemd keep a socket, and tells whether it was asked to.
func (s *sockets) keep(name string, c syscall.Conn) bool {
	if s.manager == "" {
		return false
	}
	if err := notifyWith(s.manager, "FDSTORE=1\nFDNAME="+name, c); err != nil {
		klog.ErrorS(err, "systemd cannot be told to keep a socket; a restart will refuse its clients", "name", name)
		return false
	}
	return true
}

// dropNamed lets go of what was kept under a name that is to be another's, at another address.
func (s *sockets) dropNamed(name string) {
	for _, k := range s.kept {
		if !k.taken && k.name == name {
			s.drop(k)
		}
	}
}

// dropOthers lets go of what was kept and is not wanted any more.
func (s *sockets) dropOthers() {
	for _, k := range s.kept {
		if !k.taken {
			s.drop(k)
		}
	}
}

// drop closes a socket everywhere.
func (s *sockets) drop(k *keptSocket) {
	k.taken = true
	if err := k.listener.Close(); err != nil {
		klog.ErrorS(err, "A socket that was kept", "name", k.name)
	}
	forgetSockets(k.name)
}

// socketNames are those under which systemd keeps sockets of ours.
var socketNames = []string{"cri", "metrics", "streaming"}

// barrierLimit is how long systemd may take to close what it is to forget.
const barrierLimit = 5 * time.Second

// forgetSockets has systemd keep nothing of those names, and waits until it does not. Names
// that it does not know are no error.
func forgetSockets(names ...string) {
	manager := os.Getenv("NOTIFY_SOCKET")
	if manager == "" {
		return
	}
	for _, name := range names {
		_, _ = daemon.SdNotify(false, "FDSTOREREMOVE=1\nFDNAME="+name) // whoever started it need not listen
	}
	r, w, err := os.Pipe()
	if err != nil {
		return
	}
	defer r.Close()
	err = notifyWith(manager, "BARRIER=1", w) // it is closed there when all before has been done
	w.Close()
	if err == nil && r.SetReadDeadline(time.Now().Add(barrierLimit)) == nil {
		_, _ = r.Read(make([]byte, 1))
	}
}
