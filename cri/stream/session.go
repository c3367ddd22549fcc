package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// lingerLimit is how long a client may take no byte of what is left for it when
// the process has ended.
const lingerLimit = 30 * time.Second

// A session is what one fetched URL is about.
type session struct {
	server *Server
	ctx    context.Context // ends with the client, the session and the server
	cancel context.CancelCauseFunc
	client *client
	w      http.ResponseWriter
	r      *http.Request
}

// exitError tells k8s.io/cri-streaming the exit code of a command that failed: it
// is what its status frame is made from.
type exitError struct{ code int32 }

func (e exitError) Error() string   { return fmt.Sprintf("exit code %d", e.code) }
func (e exitError) String() string  { return e.Error() }
func (e exitError) Exited() bool    { return true }
func (e exitError) ExitStatus() int { return int(e.code) }

// command is an Executor and an Attacher for one session.
type command struct {
	*session
	streams Streams
	start   func(context.Context) (Process, error)
	attach  bool
}

func (x *session) exec(containerID string, args []string, o Streams) {
	c := &command{session: x, streams: o, start: func(ctx context.Context) (Process, error) {
		return x.server.backend.Exec(ctx, containerID, args, o)
	}}
	if wsstream.IsWebSocketRequest(x.r) {
		c.serveSocket()
		return
	}
	remotecommand.ServeExec(x.w, x.r, c, "", "", containerID, args, o.options(), idleLimit,
		remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

func (x *session) attach(containerID string, o Streams) {
	c := &command{session: x, streams: o, attach: true, start: func(ctx context.Context) (Process, error) {
		return x.server.backend.Attach(ctx, containerID, o)
	}}
	if wsstream.IsWebSocketRequest(x.r) {
		c.serveSocket()
		return
	}
	remotecommand.ServeAttach(x.w, x.r, c, "", "", containerID, o.options(), idleLimit,
		remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

func (o Streams) options() *remotecommand.Options {
	return &remotecommand.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, TTY: o.TTY}
}

// ExecInContainer implements remotecommand.Executor.
func (c *command) ExecInContainer(_ context.Context, _, _, _ string, _ []string, in io.Reader, out, err io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	return c.run(in, out, err, resize, probed(in, out, err))
}

// AttachContainer implements remotecommand.Attacher.
func (c *command) AttachContainer(_ context.Context, _, _, _ string, in io.Reader, out, err io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	return c.run(in, out, err, resize, probed(in, out, err))
}

// probed is where an empty frame of SPDY can go: each of its streams goes both
// ways.
func probed(in io.Reader, out, errOut io.Writer) io.Writer {
	switch {
	case out != nil:
		return out
	case errOut != nil:
		return errOut
	}
	w, _ := in.(io.Writer)
	return w
}

// run moves bytes between the client and the process until the process has ended
// and the client has all of its output, or the client has gone. What still reads
// from the client then ends with the connection, which the caller closes. An
// empty write to probe tells whether the client is there.
func (c *command) run(in io.Reader, out, errOut io.Writer, resize <-chan remotecommand.TerminalSize, probe io.Writer) error {
	p, err := c.start(c.ctx)
	if err != nil {
		c.client.parting.Store(c.ctx.Err() == nil)
		return err
	}
	defer p.Close()
	if resize != nil {
		c.server.work.Go(func() {
			for size := range resize {
				p.Resize(size.Width, size.Height)
			}
		})
	}
	if c.streams.Stdin && in != nil {
		c.server.work.Go(func() {
			gone := func() { c.cancel(errClientGone) }
			if err := newStall(probe, gone).copy(p, in); err != nil { // the process takes no more; the client is not to wait for it
				_, _ = io.Copy(io.Discard, in)
			}
			p.CloseWrite()
		})
	}
	var moved atomic.Int64
	var copies sync.WaitGroup
	c.send(&copies, &moved, out, p.Stdout(), c.streams.Stdout)
	c.send(&copies, &moved, errOut, p.Stderr(), c.streams.Stderr)
	select {
	case <-p.Done():
	case <-c.ctx.Done():
		return c.over()
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		copies.Wait()
	}()
	if err := c.linger(copied, &moved); err != nil {
		return err
	}
	c.client.parting.Store(true)
	code, err := p.Result()
	if err == nil && code != 0 && !c.attach {
		return exitError{code}
	}
	return err
}

// send starts moving one stream to the client. A stream that it does not want is
// read all the same, or the process would wait.
func (c *command) send(copies *sync.WaitGroup, moved *atomic.Int64, to io.Writer, from io.Reader, wanted bool) {
	if from == nil {
		return
	}
	if to == nil || !wanted {
		to = io.Discard
	}
	copies.Go(func() {
		buf := make([]byte, copySize)
		for {
			n, err := from.Read(buf)
			if n > 0 {
				if _, werr := to.Write(buf[:n]); werr != nil {
					c.cancel(errClientGone)
					return
				}
				moved.Add(int64(n))
			}
			if err != nil {
				return
			}
		}
	})
}

// copySize is how much is moved at once, in bytes.
const copySize = 32 << 10

// linger waits until the client has the output, for as long as it takes some.
func (c *command) linger(copied <-chan struct{}, moved *atomic.Int64) error {
	tick := time.NewTicker(lingerLimit)
	defer tick.Stop()
	for before := moved.Load(); ; {
		select {
		case <-copied:
			return nil
		case <-c.ctx.Done():
			return c.over()
		case <-tick.C:
			now := moved.Load()
			if now == before {
				c.client.Close() // it could not be told either
				return errors.New("the client does not read")
			}
			before = now
		}
	}
}

// over is why a session has ended before its process: nil for a client that has
// gone, which nobody is to be told of.
func (x *session) over() error {
	if err := context.Cause(x.ctx); !errors.Is(err, errClientGone) {
		return err
	}
	return nil
}
