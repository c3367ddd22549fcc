package keeper

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/berthd/berth/shim/keeper/container"
	"github.com/berthd/berth/shim/keeper/logfile"
)

// readSize is how much of a stream is moved at once, in bytes: what a pipe holds.
const readSize = 64 << 10

// drainLimit is how long the end of a stream is waited for when everybody who
// should have it open is dead.
const drainLimit = 2 * time.Second

// closeFiles closes our copies of what a process was given.
func closeFiles(s *container.Files) {
	for _, f := range []*os.File{s.Stdin, s.Stdout, s.Stderr, s.Console} {
		if f != nil {
			f.Close()
		}
	}
	*s = container.Files{}
}

// A stdio is our side of a container's streams. What the container says goes
// through package logfile, which is where attached clients get
// their copies.
type stdio struct {
	theirs    container.Files
	console   *os.File // our end of theirs.Console, until adopt
	stdinOnce bool
	pipes     [2]uint64 // inodes of the pipes of stdout and stderr

	// onStdinClosed is called before stdin is closed: it ends with the last descriptor.
	onStdinClosed func()

	mu      sync.Mutex
	stdin   *os.File       // nil when there is none, or it was closed
	noStdin chan struct{}  // closed with stdin
	master  *os.File       // the terminal
	ferry   *logfile.Ferry // of the terminal's output

	outputs   []*os.File
	audiences [2]audience // who is attached to stdout, which a terminal's output is, and stderr
	log       *logfile.Log
}

// newStdio makes the streams of a container.
func newStdio(terminal, stdin, stdinOnce bool) (*stdio, error) {
	s := &stdio{stdinOnce: stdinOnce, noStdin: make(chan struct{})}
	var err error
	if terminal {
		if s.console, s.theirs.Console, err = consolePair(); err != nil {
			return nil, err
		}
		return s, nil
	}
	if stdin {
		if s.theirs.Stdin, s.stdin, err = os.Pipe(); err != nil {
			return nil, err
		}
	}
	for i, theirs := range []**os.File{&s.theirs.Stdout, &s.theirs.Stderr} {
		var ours *os.File
		if ours, *theirs, err = lastingPipe(); err != nil {
			s.close()
			return nil, err
		}
		s.outputs = append(s.outputs, ours)
		s.pipes[i] = inode(ours)
	}
	return s, nil
}

// pipeTo makes a pipe and returns its reading end.
func pipeTo(theirs **os.File) (ours *os.File, err error) {
	ours, *theirs, err = os.Pipe()
	return ours, err
}

// adopt closes what the process was given and receives its terminal, if it has
// one. Called once the process is started.
func (s *stdio) adopt() error {
	closeFiles(&s.theirs)
	if s.console == nil {
		return nil
	}
	master, err := recvMaster(s.console)
	s.console.Close()
	s.console = nil
	if err != nil {
		return err
	}
	s.outputs = append(s.outputs, master)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.master = master
	s.ferry, err = newFerry()
	return err
}

func newFerry() (*logfile.Ferry, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return &logfile.Ferry{R: r, W: w}, nil
}

// logTo starts moving the output to l. ended is closed when the process has.
func (s *stdio) logTo(l *logfile.Log, ended <-chan struct{}) {
	s.log = l
	for i, f := range s.outputs {
		to := &s.audiences[i]
		l.Start(i, logfile.Source{File: f, Ferry: s.ferry, Listening: to.hasMembers, Listen: to.send, End: to.end, Ended: ended})
	}
}

// pools lend the memory that output moves through.
type pools struct {
	reads *bufferPool
	logs  *logfile.Pools
}

func newPools() *pools { return &pools{reads: newBufferPool(readSize), logs: logfile.NewPools()} }

// A bufferPool lends buffers of one size to whoever has something to move.
type bufferPool struct{ pool sync.Pool }

func newBufferPool(size int) *bufferPool {
	return &bufferPool{sync.Pool{New: func() any { b := make([]byte, size); return &b }}}
}

func (p *bufferPool) get() *[]byte  { return p.pool.Get().(*[]byte) }
func (p *bufferPool) put(b *[]byte) { p.pool.Put(b) }

// drain waits until the output is all logged. The process and those it left
// behind are dead; what keeps a stream open all the same is given drainLimit, and
// a log whose disk hangs little more.
func (s *stdio) drain() {
	deadline := time.Now().Add(drainLimit)
	for _, f := range s.outputs {
		_ = f.SetReadDeadline(deadline) // a closed file needs none
	}
	if s.log != nil {
		s.log.Wait(drainLimit + drainLimit/2)
	}
}

// closeStdin ends the process's input. Attached clients are told through noStdin
// to close what they have of it.
func (s *stdio) closeStdin() {
	s.mu.Lock()
	f := s.stdin
	s.stdin = nil
	s.mu.Unlock()
	if f == nil {
		return
	}
	if s.onStdinClosed != nil {
		s.onStdinClosed()
	}
	f.Close()
	close(s.noStdin)
}

// resize sets the terminal's size.
func (s *stdio) resize(width, height uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.master == nil {
		return fmt.Errorf("terminal: %w", errNoTerminal)
	}
	return resize(s.master, width, height)
}

// close closes all that is left. The copies end with it.
func (s *stdio) close() {
	closeFiles(&s.theirs)
	s.closeStdin()
	if s.console != nil {
		s.console.Close()
		s.console = nil
	}
	s.mu.Lock()
	if s.ferry != nil {
		s.ferry.R.Close()
		s.ferry.W.Close()
	}
	s.master = nil
	s.mu.Unlock()
	for _, f := range s.outputs {
		f.Close()
	}
	for i := range s.audiences { // a stream that was never logged has nobody else to end it
		s.audiences[i].end()
	}
}

// A capture reads a stream of a command and hands out the first limit bytes. It
// reads on to the end, so that the command never waits.
type capture struct {
	f     *os.File
	limit int64
	send  func([]byte) error
}

func (c *capture) run(pool *bufferPool) error {
	for {
		buf, n, err := readReady(c.f, pool)
		if keep := min(int64(n), c.limit); keep > 0 {
			c.limit -= keep
			if serr := c.send((*buf)[:keep]); serr != nil {
				err = errors.Join(err, serr)
			}
		}
		if buf != nil {
			pool.put(buf)
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if n == 0 || err != nil {
			return nil
		}
	}
}
