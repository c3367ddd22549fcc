package logfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/crashpoint"
)

// ErrClosed is what a closed log answers.
var ErrClosed = errors.New("the log is closed")

// Options say where a log is and what it may take.
type Options struct {
	Path   string // of the log; "" discards everything
	Bundle string // the folder of spools and ledger
	Rate   int64  // bytes of output per second that are logged; 0 is no limit
	Burst  int64  // bytes that may come at once all the same
	Going  bool   // a process that has died had it open: if it cannot be opened now, it is tried again
}

// A Log is a container's log, shared by its two streams. It is safe for concurrent use.
type Log struct {
	path, bundle string
	pools        *Pools
	turn         chan struct{} // holds a token while the file, its size or the state's Write is used
	size         int64         // of the file, before a write

	mu      sync.Mutex
	ledger  *ledger
	state   state    // what the ledger has
	f       *os.File // nil: not to be had, so far
	streams [2]*stream
	bucket  bucket
	err     error // of the last write
	retryAt time.Time
	delay   time.Duration
	closed  bool
	users   int   // that are between enter and leave
	written int64 // writes that have succeeded
}

// Open opens the log and goes on where a process that died has stopped.
func Open(o Options, pools *Pools) (*Log, error) {
	l := &Log{path: o.Path, bundle: o.Bundle, pools: pools, turn: make(chan struct{}, 1)}
	if o.Path == "" {
		for i := range l.streams {
			l.streams[i] = newStream(l, i, nil)
		}
		return l, nil
	}
	l.bucket = newBucket(o.Rate, o.Burst)
	if err := l.openState(); err != nil {
		l.Close()
		return nil, err
	}
	err := l.openFile()
	switch {
	case err != nil && o.Going:
		l.note(err)
	case err != nil:
		l.Close()
		return nil, err
	}
	return l, nil
}

// openState opens ledger and spools, or has them in memory.
func (l *Log) openState() (err error) {
	if l.ledger, err = mapLedger(filepath.Join(l.bundle, "log.ledger")); err == nil {
		l.state, err = l.ledger.load()
	}
	if err != nil {
		klog.ErrorS(err, "Container log: what the shim has of it is lost if the shim is killed", "path", l.path)
		l.ledger, l.state = &ledger{p: new(page)}, state{}
	}
	for i := range l.streams {
		sp, err := openSpool(filepath.Join(l.bundle, names[i]+".spool"))
		if err != nil {
			klog.ErrorS(err, "Container log: output is in memory until it is written", "path", l.path)
			m, merr := memory("log-spool")
			if merr != nil {
				return fmt.Errorf("log: %w", merr)
			}
			sp = &spool{f: m}
		}
		l.state.Streams[i].fit(sp.size)
		l.streams[i] = newStream(l, i, sp)
	}
	if w := l.state.Write; w.Kind != nothing && w.Gap.To > l.streams[w.Stream&1].spool.size {
		l.state.Write = write{}
	}
	l.ledger.save(&l.state)
	return nil
}

// openFile finds the log that was written to, or begins one. After an error there is none yet.
func (l *Log) openFile() error {
	if l.state.File != (fileID{}) {
		if f, err := find(l.path, l.state.File); err == nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.f = f
			return nil
		}
	}
	f, st, err := create(l.path)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.f = f
	l.state.File, l.state.Prev, l.state.Write.Before = st.id, fileID{}, st.size
	l.ledger.save(&l.state)
	return nil
}

// take waits for the turn.
func (l *Log) take(ctx context.Context) error {
	select {
	case l.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Reopen goes on in a new file at the same path, after a whole record, and waits for a write
// that is under way. When it fails the old file stays in use and no file has been made. It may
// be repeated: a log that is at its path stays. A log that was closed stays closed.
func (l *Log) Reopen(ctx context.Context) error {
	if l.path == "" {
		return nil
	}
	if err := l.take(ctx); err != nil {
		return fmt.Errorf("log: a write of it does not end: %w", err)
	}
	err := l.rotate()
	<-l.turn
	if err == nil {
		l.mu.Lock()
		l.retryAt = time.Time{}
		l.retryInLocked(0)
		l.mu.Unlock()
	}
	return err
}

// rotate is Reopen in its turn.
func (l *Log) rotate() error {
	if !l.enter() {
		return nil
	}
	defer l.leave()
	f, err := open(l.path, true)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	st, err := inspect(f)
	if err != nil || st.id == l.state.File {
		f.Close()
		return err
	}
	crashpoint.At("rotate", l.path)
	l.endFile()
	l.mu.Lock()
	l.state.Prev, l.state.File = l.state.File, st.id
	l.state.Write.Before = st.size
	l.ledger.save(&l.state)
	old := l.f
	l.f = f
	l.mu.Unlock()
	crashpoint.At("rotated", l.path)
	if old != nil {
		old.Close()
	}
	return nil
}

// endFile has the file end with a whole record when a write to it has failed half-way.
func (l *Log) endFile() {
	w := l.state.Write
	if w.Kind == nothing || l.f == nil { // what was written of it is not to be found: it is written anew
		return
	}
	if err := l.resume(); err == nil {
		return
	}
	st, err := inspect(l.f)
	if err != nil {
		return
	}
	h := head{int(w.Stream), w.Stamp}
	took, out := 0, 0
	if w.Kind == lines {
		p := make([]byte, w.Gap.To-w.Gap.From)
		if err := l.streams[w.Stream].spool.read(p, w.Gap.From); err != nil {
			return
		}
		all, _ := h.records(nil, p, true, 1<<40)
		took, out = h.whole(p, written(l.f, w.Before, st.size, all))
	}
	if st.size > w.Before+int64(out) {
		if err := l.f.Truncate(w.Before + int64(out)); err != nil {
			klog.ErrorS(err, "Container log: half a record stays in a file that was rotated", "path", l.path)
		}
	}
	if w.Kind != lines {
		return // the note is written whole to the next file
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.Streams[w.Stream].Consumed += int64(took)
	l.state.Write = write{}
	l.ledger.save(&l.state)
}

// Wait waits until the streams have ended and all is logged. It gives up when the log cannot be
// written, when nothing of it has been for stall, and after five times that; what is left may
// be written until Close.
func (l *Log) Wait(stall time.Duration) {
	limit := time.Now().Add(5 * stall)
	for moves := l.moves(); time.Now().Before(limit); {
		round := time.After(stall)
		waiting := false
		for _, s := range l.streams {
			if s == nil || !s.started || waiting {
				continue
			}
			select {
			case <-s.done:
			case <-round:
				waiting = true
			}
		}
		now := l.moves()
		if !waiting || now == moves {
			return
		}
		moves = now
	}
}

// moves counts the writes that have succeeded.
func (l *Log) moves() (n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written
}

// Close ends the log. A write that hangs goes on by itself. It may be repeated.
func (l *Log) Close() {
	if l.path == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	for i, s := range l.streams {
		if s == nil {
			continue
		}
		if n := l.heldLocked(i); n > 0 {
			klog.ErrorS(l.err, "Container log: closed before all was written", "path", l.path, "stream", names[i], "bytes", n)
		}
		s.stopLocked()
	}
	l.releaseLocked()
}

// enter keeps files and ledger open until leave. A closed log is not entered.
func (l *Log) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.users++
	return true
}

func (l *Log) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users--
	if l.closed {
		l.releaseLocked()
	}
}

// releaseLocked closes everything when nobody uses it.
func (l *Log) releaseLocked() {
	if l.users > 0 {
		return
	}
	for _, s := range l.streams {
		if s != nil {
			s.spool.close()
		}
	}
	if l.f != nil {
		l.f.Close()
	}
	l.ledger.unmap()
}
