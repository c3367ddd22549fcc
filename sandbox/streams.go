package sandbox

import (
	"context"
	"fmt"
	"net"

	"github.com/berthd/berth/netns"
	"github.com/berthd/berth/shim"
)

// CheckExec returns the whole ID of a container in which a command can be run.
func (cs *Containers) CheckExec(id string) (string, error) {
	c, err := cs.running(id)
	if err != nil {
		return "", err
	}
	return c.Record().ID, nil
}

// CheckAttach returns the whole ID of a container that can be attached to. tty
// must be what the container was made with, for it decides how many streams
// there are (CRI, AttachRequest.tty).
func (cs *Containers) CheckAttach(id string, tty bool) (string, error) {
	c, err := cs.running(id)
	if err != nil {
		return "", err
	}
	if has := c.Record().Config().GetTty(); has != tty {
		return "", fmt.Errorf("%s: attach: tty is %t and the container's is %t: %w", c.what(), tty, has, ErrInvalid)
	}
	return c.Record().ID, nil
}

// A StreamRequest says which streams a client wants; TTY is for a command only.
type StreamRequest struct{ Stdin, Stdout, Stderr, TTY bool }

// Exec runs a command in a running container for a client. It ends with the
// session, and with the container.
func (cs *Containers) Exec(ctx context.Context, id string, args []string, r StreamRequest) (*shim.Session, error) {
	c, err := cs.running(id)
	if err != nil {
		return nil, err
	}
	process, err := cs.execProcess(c, args, r.TTY)
	if err != nil {
		return nil, err
	}
	x, err := cs.opts.Processes.OpenSession(ctx, shim.SessionRequest{
		ID: c.Record().ID, Process: process, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr && !r.TTY,
	})
	if err != nil {
		return nil, fmt.Errorf("%s: exec: %w", c.what(), err)
	}
	return x, nil
}

// Attach joins a client to a running container's own streams, from now on. A
// container that was made without stdin takes none and says nothing of it.
func (cs *Containers) Attach(ctx context.Context, id string, r StreamRequest) (*shim.Session, error) {
	c, err := cs.running(id)
	if err != nil {
		return nil, err
	}
	x, err := cs.opts.Processes.OpenSession(ctx, shim.SessionRequest{
		ID: c.Record().ID, Stdin: r.Stdin && c.Record().Config().GetStdin(), Stdout: r.Stdout, Stderr: r.Stderr,
	})
	if err != nil {
		return nil, fmt.Errorf("%s: attach: %w", c.what(), err)
	}
	return x, nil
}

// CheckReady returns the whole ID of a pod that is ready.
func (ps *Pods) CheckReady(id string) (string, error) {
	p, err := ps.inService(id)
	if err != nil {
		return "", err
	}
	return p.Record().ID, nil
}

// Dial connects to a TCP port of a ready pod's loopback address; in a pod with the
// host's network, to the host's.
func (ps *Pods) Dial(ctx context.Context, id string, port int32) (net.Conn, error) {
	p, err := ps.inService(id)
	if err != nil {
		return nil, err
	}
	conn, err := netns.Dial(ctx, p.Record().Namespaces.Net, port)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.what(), err)
	}
	return conn, nil
}

func (ps *Pods) inService(id string) (*Pod, error) {
	p, err := ps.Get(id)
	if err != nil {
		return nil, err
	}
	if s := p.Record().State; s != Ready {
		return nil, fmt.Errorf("%s: is %s, not ready: %w", p.what(), s, ErrBadState)
	}
	return p, nil
}
