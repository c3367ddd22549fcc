package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/berthd/berth/shim/api"
	"github.com/berthd/berth/shim/keeper/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/klog/v2"
)

const (
	// openLimit is how long a new connection may take to say what it wants.
	openLimit = 10 * time.Second
	// hangUpLimit is how long a command whose client has gone is given to end by
	// itself, its terminal hung up or its streams closed, before it is killed.
	hangUpLimit = 2 * time.Second
)

// A session is one client of a container's streams: see package api. It ends
// with its connection, its command or its container, whichever is first.
type session struct {
	k    *Keeper
	conn *api.SessionConn

	gone       chan struct{} // closed when the client has gone
	inputEnded chan struct{} // closed when the client will send nothing more
}

// serveSessions answers on ln until it is closed.
func (k *Keeper) serveSessions(ctx context.Context, ln *net.UnixListener) {
	for {
		conn, err := ln.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, say
			klog.ErrorS(err, "Accepting a session")
			if pauseFor(ctx, 100*time.Millisecond) != nil {
				return
			}
			continue
		}
		go k.serveSession(ctx, conn)
	}
}

// serveSession serves one connection to its end.
func (k *Keeper) serveSession(ctx context.Context, conn *net.UnixConn) {
	s := &session{k: k, conn: api.NewSessionConn(conn), gone: make(chan struct{}), inputEnded: make(chan struct{})}
	defer s.conn.Close()
	if err := rootPeer(ctx, conn); err != nil {
		klog.ErrorS(err, "Refusing a session")
		return
	}
	var req api.SessionRequest
	_ = conn.SetReadDeadline(time.Now().Add(openLimit))
	if err := s.conn.Receive(&req); err != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	go s.listen()
	if err := s.serve(ctx, &req); err != nil { // a client that has an answer does not look for another
		_ = s.conn.Send(api.SessionReply{Code: uint32(codeOf(err)), Error: err.Error()})
	}
}

// serve does what the client wants.
func (s *session) serve(ctx context.Context, req *api.SessionRequest) error {
	if req.Escrow {
		return s.k.keepEscrow(s)
	}
	what := "attach"
	if req.Process != nil {
		what = "exec"
	}
	leave, err := s.k.pass(ctx, what, aStream)
	if err != nil {
		return err
	}
	defer leave()
	if req.Process != nil {
		return s.exec(ctx, req)
	}
	return s.attach(req)
}

// listen hears what the client says until it goes.
func (s *session) listen() {
	defer close(s.gone)
	ended := s.inputEnded
	for {
		var e api.SessionEvent
		if s.conn.Receive(&e) != nil {
			return
		}
		if e.Ended != "" {
			s.k.told(e.Ended, e.Status)
		}
		if e.StdinEnded && ended != nil {
			close(ended)
			ended = nil
		}
	}
}

// open hands the client its descriptors.
func (s *session) open(out *sessionFiles) error {
	return s.conn.Send(api.SessionReply{Files: out.names}, out.files...)
}

// sessionFiles are descriptors on their way to a client.
type sessionFiles struct {
	names []string
	files []*os.File
}

func (o *sessionFiles) add(name string, f *os.File) {
	o.names, o.files = append(o.names, name), append(o.files, f)
}

// close closes our copies. It may be repeated.
func (o *sessionFiles) close() {
	for _, f := range o.files {
		f.Close()
	}
	*o = sessionFiles{}
}

// exec runs a command for the client. The client has the other ends of its
// streams; here only its life is looked after.
func (s *session) exec(ctx context.Context, req *api.SessionRequest) error {
	t, err := s.k.task(req.ID)
	if err != nil {
		return err
	}
	var ps specs.Process
	if err := json.Unmarshal(req.Process, &ps); err != nil {
		return fmt.Errorf("exec in %s: process: %w: %w", req.ID, errInvalid, err)
	}
	name, err := t.nextExec()
	if err != nil {
		return err
	}
	sub, err := t.cg.makeSub(name)
	if err != nil {
		return fmt.Errorf("exec in %s: %w", req.ID, err)
	}
	x := &execution{task: t, sub: sub, name: name}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer x.cleanUp(ctx)
	defer x.killWhenOver(ctx)()
	go s.hangUp(ctx, cancel)

	oomBefore := t.cg.oomKills()
	code, err := s.runExec(ctx, x, &ps, req)
	if err != nil {
		return fmt.Errorf("exec in %s: %w", req.ID, err)
	}
	if ctx.Err() == nil { // else it is we who have killed it
		t.killedBeside(code, oomBefore)
	}
	select {
	case <-s.gone: // what it left is killed with it
	case <-t.ended:
	default:
		x.release()
	}
	x.cleanUp(ctx) // first: who is told of the end finds nothing left
	return s.conn.Send(api.SessionEvent{Exited: true, Code: code})
}

// hangUp ends a command some time after its client has gone.
func (s *session) hangUp(ctx context.Context, kill func()) {
	select {
	case <-s.gone:
		if pauseFor(ctx, hangUpLimit) == nil {
			kill()
		}
	case <-ctx.Done():
	}
}

// runExec starts the command, gives its streams to the client and waits for its
// end.
func (s *session) runExec(ctx context.Context, x *execution, ps *specs.Process, req *api.SessionRequest) (int32, error) {
	var out sessionFiles
	defer out.close()
	theirs, console, err := execFiles(&out, ps.Terminal, req)
	if err != nil {
		return 0, err
	}
	defer closeFiles(&theirs)
	p, err := x.start(ctx, s.k.nursery, ps, theirs)
	closeFiles(&theirs)
	var master *os.File
	if console != nil {
		if err == nil {
			master, err = recvMaster(console)
		}
		console.Close()
	}
	if p == nil {
		return 0, err
	}
	if master != nil {
		out.add(api.FileTerminal, master)
	}
	if err == nil {
		err = s.open(&out)
	}
	out.close()
	if err != nil {
		x.kill()
	}
	code, _ := exitCode(p.Wait())
	s.k.nursery.done(p.Pid())
	return code, err
}

// execFiles makes the streams of a command: the client's ends go to out.
func execFiles(out *sessionFiles, terminal bool, req *api.SessionRequest) (theirs container.Files, console *os.File, err error) {
	if terminal {
		console, theirs.Console, err = consolePair()
		return theirs, console, err
	}
	if req.Stdin {
		var ours *os.File
		if theirs.Stdin, ours, err = os.Pipe(); err != nil {
			return theirs, nil, err
		}
		out.add(api.FileStdin, ours)
	}
	for _, o := range [...]struct {
		wanted bool
		name   string
		theirs **os.File
	}{{req.Stdout, api.FileStdout, &theirs.Stdout}, {req.Stderr, api.FileStderr, &theirs.Stderr}} {
		if !o.wanted {
			continue
		}
		ours, err := pipeTo(o.theirs)
		if err != nil {
			closeFiles(&theirs)
			return theirs, nil, err
		}
		out.add(o.name, ours)
	}
	return theirs, nil, nil
}
