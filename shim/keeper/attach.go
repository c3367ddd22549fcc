package keeper

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/berthd/berth/shim/api"
)

// attachRoom is how much of a container's output waits for an attached client,
// in bytes: the size of the pipe to it. The kernel has the memory, and only for
// what waits.
const attachRoom = 1 << 20

// An audience is who is attached to one stream of a container. The zero value
// has nobody.
type audience struct {
	size atomic.Int32 // of members, so that nobody costs nothing

	mu      sync.Mutex
	ended   bool
	members map[*listener]struct{}
}

// A listener is one attached client's pipe of one stream. What does not fit in
// it is lost to this client, who is told so in the stream itself; neither the
// container, nor its log, nor the other clients wait.
type listener struct {
	f    *os.File
	lost int64 // bytes since the last that fitted
}

// join adds a listener and returns the end of its pipe to read from. A stream
// that has ended already gives its end at once.
func (a *audience) join() (*listener, *os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	widen(w, attachRoom)
	l := &listener{f: w}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		w.Close()
		return l, r, nil
	}
	if a.members == nil {
		a.members = map[*listener]struct{}{}
	}
	a.members[l] = struct{}{}
	a.size.Store(int32(len(a.members)))
	return l, r, nil
}

// leave takes a listener out.
func (a *audience) leave(l *listener) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.removeLocked(l)
}

func (a *audience) removeLocked(l *listener) {
	if _, ok := a.members[l]; !ok {
		return
	}
	delete(a.members, l)
	a.size.Store(int32(len(a.members)))
	l.f.Close()
}

// hasMembers says whether somebody is attached.
func (a *audience) hasMembers() bool { return a.size.Load() > 0 }

// send gives everybody a copy of p without waiting.
func (a *audience) send(p []byte) {
	if a.size.Load() == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for l := range a.members {
		if err := l.send(p); err != nil {
			a.removeLocked(l) // it reads no more
		}
	}
}

// end tells everybody that there is no more. For one who still has to be told of
// a loss, somebody waits until there is room for that, or the client has gone.
func (a *audience) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	for l := range a.members {
		delete(a.members, l)
		if l.lost == 0 {
			l.f.Close()
			continue
		}
		go func() {
			_, _ = l.f.Write(l.notice())
			l.f.Close()
		}()
	}
	a.size.Store(0)
}

// send writes what fits. An error means that nobody reads.
func (l *listener) send(p []byte) error {
	if l.lost > 0 {
		notice := l.notice()
		n, err := writeNow(l.f, notice)
		if err != nil {
			return err
		}
		if n < len(notice) { // so short a write is whole or not at all (pipe(7), PIPE_BUF)
			l.lost += int64(len(p))
			return nil
		}
		l.lost = 0
	}
	n, err := writeNow(l.f, p)
	l.lost += int64(len(p) - n)
	return err
}

// notice is what a client reads in place of what it lost.
func (l *listener) notice() []byte {
	return fmt.Appendf(nil, "\r\n[berth: %d bytes of output are lost here: this client reads too slowly; the log has them]\r\n", l.lost)
}

// attach serves a client of a container's own streams until either ends.
func (s *session) attach(req *api.SessionRequest) error {
	t, err := s.k.task(req.ID)
	if err != nil {
		return err
	}
	if st := t.snapshot().status; st != created && st != running {
		return fmt.Errorf("container %s: %w", req.ID, errNotRunning)
	}
	var out sessionFiles
	defer out.close()
	for i, wanted := range [...]bool{req.Stdout, req.Stderr && len(t.io.outputs) > 1} {
		if !wanted {
			continue
		}
		l, r, err := t.io.audiences[i].join()
		if err != nil {
			return fmt.Errorf("container %s: attach: %w", req.ID, err)
		}
		defer t.io.audiences[i].leave(l)
		out.add([...]string{api.FileStdout, api.FileStderr}[i], r)
	}
	input, err := t.io.input(&out, req.Stdin)
	if err != nil {
		return fmt.Errorf("container %s: attach: %w", req.ID, err)
	}
	if err := s.open(&out); err != nil {
		return err
	}
	out.close()
	// With stdin_once, the container's input ends with the first client that had
	// it, however that client ends.
	endInput := func() {
		if input && t.io.stdinOnce {
			t.io.closeStdin()
		}
	}
	defer endInput()
	inputEnded, noStdin := s.inputEnded, t.io.noStdin
	for {
		select {
		case <-inputEnded:
			inputEnded = nil
			endInput()
		case <-noStdin:
			noStdin = nil
			_ = s.conn.Send(api.SessionEvent{StdinEnded: true}) // who has gone has closed it
		case <-s.gone:
			return nil
		case <-t.done:
			return s.conn.Send(api.SessionEvent{Exited: true, Code: t.snapshot().exit.Code})
		}
	}
}

// input adds what a client may write to: the terminal, which it also sizes, or
// the container's stdin while it is open. It reports whether that is a stdin of
// its own. A container without one has nothing to add.
func (s *stdio) input(out *sessionFiles, wanted bool) (stdin bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name, f := api.FileTerminal, s.master
	if f == nil {
		name, f = api.FileStdin, s.stdin
		if !wanted || f == nil {
			return false, nil
		}
	}
	own, err := api.Duplicate(f)
	if err != nil {
		return false, err
	}
	out.add(name, own)
	return name == api.FileStdin, nil
}
