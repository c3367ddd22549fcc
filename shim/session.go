package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/berthd/berth/shim/api"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
)

// SessionRequest says whose streams a client wants.
type SessionRequest struct {
	ID                    string
	Process               *specs.Process // a command to be run; nil: the container's own streams
	Stdin, Stdout, Stderr bool
}

const (
	// restWait is how long the rest of a command's output is waited for when it has
	// ended. It is in the pipe by then; a terminal may take a moment.
	restWait = 100 * time.Millisecond
	// restLimit is the least that is taken for the rest, in bytes: what a pipe or a
	// terminal holds, twice. A pipe that the command made larger may hold more. What
	// descendants write later is not the command's.
	restLimit = 128 << 10
	// sessionLimit is how long a shim may take to open a session.
	sessionLimit = time.Minute
)

// A Session is a client of a container's streams. The bytes flow straight
// between the caller and the process, or for an attachment through a pipe that
// the shim fills without waiting. It is to be closed, and lasts until then: a
// command of which the session is closed, or whose daemon has died, is killed
// with all that it started.
type Session struct {
	conn  *api.SessionConn
	leave func() // the shim's usage

	mu       sync.Mutex // guards stdin's and terminal's ends
	stdin    *os.File   // nil: there is none, or it was closed
	terminal *os.File

	outputs [2]*sessionOutput // stdout, stderr; nil: there is none
	files   []*os.File

	ended chan struct{}
	code  int32 // set before ended is closed, as is err
	err   error
}

// OpenSession runs a command in a container, or attaches to it, for a client. A
// container that does not run is ErrNotRunning. ctx bounds the opening only.
func (s *Shims) OpenSession(ctx context.Context, req SessionRequest) (*Session, error) {
	ctx, cancel := context.WithTimeout(ctx, sessionLimit)
	defer cancel()
	e, err := s.entry(req.ID)
	if err != nil {
		return nil, err
	}
	wire := api.SessionRequest{ID: req.ID, Stdin: req.Stdin, Stdout: req.Stdout, Stderr: req.Stderr}
	if req.Process != nil {
		if wire.Process, err = json.Marshal(req.Process); err != nil {
			return nil, err
		}
	}
	conn, err := e.p.dialSession(ctx) // counted as a stream then
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("container %s: its shim was started by an earlier release, which has no sessions; start the pod anew: %w", req.ID, ErrUnimplemented)
	case err != nil:
		return nil, fmt.Errorf("container %s: %w", req.ID, err)
	}
	x := &Session{conn: api.NewSessionConn(conn.(*net.UnixConn)), ended: make(chan struct{})}
	x.leave = sync.OnceFunc(func() { e.p.leave(&e.p.usage.streams) })
	if err := x.begin(ctx, wire); err != nil {
		return nil, errors.Join(err, x.Close())
	}
	go x.listen()
	return x, nil
}

// dialSession connects to the shim, or to its successor, and counts the connection as a
// stream.
func (p *process) dialSession(ctx context.Context) (net.Conn, error) {
	for {
		c, err := p.client(ctx, &p.usage.streams)
		if err != nil {
			return nil, err
		}
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", api.SessionPath(p.dir))
		if err != nil {
			p.leave(&p.usage.streams)
		}
		if err == nil || !isRefusal(err) || errors.Is(err, os.ErrNotExist) {
			return conn, err
		}
		if p.shims.lose(p, c); p.isDead() {
			return nil, fmt.Errorf("shim: %w: %w", ErrUnavailable, err)
		}
	}
}

// begin asks for the session and takes what the shim gives.
func (x *Session) begin(ctx context.Context, req api.SessionRequest) error {
	defer context.AfterFunc(ctx, func() { x.conn.Close() })()
	var reply api.SessionReply
	err := x.conn.Send(req)
	if err == nil {
		err = x.conn.Receive(&reply)
	}
	files := x.conn.TakeFiles()
	x.files = files
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("container %s: shim: %w: %w", req.ID, ErrUnavailable, err)
	case reply.Code != 0:
		return &wireError{reply.Error, sentinelOf(codes.Code(reply.Code))}
	case len(files) != len(reply.Files):
		return fmt.Errorf("container %s: shim: %d descriptors came of %d: %w", req.ID, len(files), len(reply.Files), ErrExhausted)
	}
	command := req.Process != nil
	for i, name := range reply.Files {
		switch f := files[i]; name {
		case api.FileStdin:
			x.stdin = f
		case api.FileStdout:
			x.outputs[0] = newOutput(f, command)
		case api.FileStderr:
			x.outputs[1] = newOutput(f, command)
		case api.FileTerminal:
			x.stdin, x.terminal = f, f
			if command {
				x.outputs[0] = newOutput(f, command)
			}
		}
	}
	return nil
}

// listen hears what the shim says until it has said its last.
func (x *Session) listen() {
	for {
		var e api.SessionEvent
		err := x.conn.Receive(&e)
		switch {
		case err != nil:
			x.err = fmt.Errorf("shim: the session was lost: %w: %w", ErrUnavailable, err)
		case e.Exited:
			x.code = e.Code
		default:
			if e.StdinEnded {
				x.dropStdin()
			}
			continue
		}
		for _, o := range x.outputs {
			if o != nil {
				o.end()
			}
		}
		close(x.ended)
		return
	}
}

// Write gives bytes to the process. It waits while the process does not read, and
// ends with Close. A process that takes no input is io.ErrClosedPipe.
func (x *Session) Write(p []byte) (int, error) {
	x.mu.Lock()
	f := x.stdin
	x.mu.Unlock()
	if f == nil {
		return 0, io.ErrClosedPipe
	}
	return f.Write(p)
}

// CloseWrite says that the client will send nothing more: a command reads its
// end; a container does so if its stdin is for one client only. A terminal has no
// such end.
func (x *Session) CloseWrite() {
	if x.terminal == nil {
		x.dropStdin()
		_ = x.conn.Send(api.SessionEvent{StdinEnded: true}) // a session that was lost needs none
	}
}

func (x *Session) dropStdin() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.stdin != nil && x.terminal == nil {
		x.stdin.Close()
		x.stdin = nil
	}
}

// Stdout is what the process says, a terminal's whole output. It ends after the
// process has. Nil when it was not asked for.
func (x *Session) Stdout() io.Reader { return x.outputs[0].reader() }

// Stderr is like Stdout. A terminal has none.
func (x *Session) Stderr() io.Reader { return x.outputs[1].reader() }

// Resize sets the terminal's size in characters. Without a terminal it does
// nothing.
func (x *Session) Resize(width, height uint16) {
	if x.terminal != nil {
		_ = resize(x.terminal, width, height) // one that was closed has no size
	}
}

// Done is closed when the command, for an attachment the container, has ended, or
// the shim has been lost. Output may still be there to read.
func (x *Session) Done() <-chan struct{} { return x.ended }

// Result is how it ended, once Done is closed: the exit code, 128 + signal for a
// process that was killed. A shim that was lost is ErrUnavailable.
func (x *Session) Result() (int32, error) {
	<-x.ended
	return x.code, x.err
}

// Close ends the session. It may be repeated.
func (x *Session) Close() error {
	err := x.conn.Close()
	x.leave()
	for _, f := range x.files {
		f.Close()
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// A sessionOutput is a stream of a process, to be read by one goroutine. That of
// a command ends with it, also while descendants have the stream open: the rest
// is what was written by then.
type sessionOutput struct {
	f       *os.File
	command bool
	ended   chan struct{}
	left    int // bytes of the rest; the reader's once ended is closed
}

func newOutput(f *os.File, command bool) *sessionOutput {
	return &sessionOutput{f: f, command: command, ended: make(chan struct{}), left: restLimit}
}

// reader is nil for nil, which a nil pointer in an interface is not.
func (o *sessionOutput) reader() io.Reader {
	if o == nil {
		return nil
	}
	return o
}

// end says that the command has ended: who reads goes on with the rest. That of
// an attachment is ended by the shim.
func (o *sessionOutput) end() {
	if !o.command {
		return
	}
	o.left = max(o.left, pending(o.f))
	_ = o.f.SetReadDeadline(time.Now()) // before ended: the rest has deadlines of its own
	close(o.ended)
}

// Read implements io.Reader.
func (o *sessionOutput) Read(p []byte) (int, error) {
	for {
		select {
		case <-o.ended:
			return o.rest(p)
		default:
		}
		n, err := o.f.Read(p)
		switch {
		case n > 0:
			return n, nil
		case isHangup(err): // nobody has the terminal open; while the command lives somebody may again
			select {
			case <-o.ended:
			case <-time.After(restWait):
			}
		case errors.Is(err, os.ErrDeadlineExceeded): // end says so
		default:
			return n, err
		}
	}
}

// rest reads what is there.
func (o *sessionOutput) rest(p []byte) (int, error) {
	if o.left <= 0 {
		return 0, io.EOF
	}
	_ = o.f.SetReadDeadline(time.Now().Add(restWait))
	n, _ := o.f.Read(p[:min(len(p), o.left)]) // whatever the error: there is no more
	o.left -= n
	if n <= 0 {
		return 0, io.EOF
	}
	return n, nil
}
