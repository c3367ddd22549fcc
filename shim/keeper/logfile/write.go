package logfile

import (
	"errors"
	"fmt"
	"io"
	"time"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/crashpoint"
)

const (
	retryFirst = 100 * time.Millisecond
	retryLast  = time.Second
)

// errMoved says that the state has changed meanwhile.
var errMoved = errors.New("moved")

// flush logs what stream s has, unless somebody does already, who will see all of it.
func (l *Log) flush(s *stream) {
	if !l.enter() {
		return
	}
	defer l.leave()
	l.mu.Lock()
	if s.flushing {
		s.again = true
		l.mu.Unlock()
		return
	}
	s.flushing = true
	for {
		s.again = false
		l.mu.Unlock()
		l.turn <- struct{}{}
		for l.step(s) {
		}
		<-l.turn
		l.mu.Lock()
		if !s.again {
			break
		}
	}
	s.flushing = false
	s.checkDoneLocked()
	l.mu.Unlock()
}

// step does one write for s in its turn, and says whether there may be more.
func (l *Log) step(s *stream) bool {
	l.mu.Lock()
	wait := l.closed || l.err != nil && time.Now().Before(l.retryAt)
	kind := l.state.Write.Kind
	l.mu.Unlock()
	if wait {
		return false
	}
	err := l.checkFile()
	if err == nil && kind != nothing {
		err = l.resume()
	} else if err == nil {
		err = l.next(s)
	}
	switch {
	case errors.Is(err, io.EOF):
		return false
	case errors.Is(err, errMoved):
		return true
	}
	l.note(err)
	return err == nil
}

// note remembers how a write went, and tries again later what failed.
func (l *Log) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		if l.err != nil {
			klog.InfoS("Container log: written again", "path", l.path)
		}
		l.err, l.delay = nil, 0
		return
	}
	if l.err == nil {
		klog.ErrorS(err, "Container log: output waits for room", "path", l.path)
	}
	l.delay = min(max(2*l.delay, retryFirst), retryLast)
	l.err, l.retryAt = err, time.Now().Add(l.delay)
	l.retryInLocked(l.delay)
}

// retryInLocked has everything tried again after d.
func (l *Log) retryInLocked(d time.Duration) {
	for _, s := range l.streams {
		s.retryInLocked(d)
	}
}

// checkFile finds another file when the log has been removed.
func (l *Log) checkFile() error {
	if l.f == nil {
		if err := l.openFile(); err != nil {
			return err
		}
	}
	st, err := inspect(l.f)
	if err != nil {
		return err
	}
	l.size = st.size
	if st.links > 0 {
		return nil
	}
	f, st, added, err := l.replace()
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state.Write.Kind != nothing && added >= 0 {
		l.state.Write.Before += added
	} else {
		l.state.Write.Before = st.size
	}
	l.state.File, l.state.Prev = st.id, fileID{}
	l.ledger.save(&l.state)
	l.f.Close()
	l.f, l.size = f, st.size
	return nil
}

// resume ends the write that is under way: this process's that has failed, or a dead one's.
func (l *Log) resume() error {
	w := l.state.Write
	h := head{int(w.Stream), w.Stamp}
	out := h.note(w.Gap.Lines, w.Gap.To-w.Gap.From, w.Gap.Why, w.Gap.Errno)
	if w.Kind == lines {
		p := make([]byte, w.Gap.To-w.Gap.From)
		if err := l.streams[w.Stream].spool.read(p, w.Gap.From); err != nil {
			return err
		}
		out, _ = h.records(nil, p, true, 1<<40)
	}
	st, err := inspect(l.f)
	if err != nil {
		return err
	}
	done := written(l.f, w.Before, st.size, out)
	if done == 0 && st.size != w.Before { // somebody else has changed the file
		if err := endRecord(l.f); err != nil {
			return err
		}
		if st, err = inspect(l.f); err != nil {
			return err
		}
		l.mu.Lock()
		l.state.Write.Before = st.size
		l.ledger.save(&l.state)
		l.mu.Unlock()
	}
	return l.write(out[done:])
}

// next logs what comes next of s: a note of what is missing, or lines. io.EOF is nothing.
func (l *Log) next(s *stream) error {
	now := time.Now()
	l.mu.Lock()
	p := l.state.Streams[s.n]
	open, again := l.bucket.open(now)
	ended := s.ended
	l.mu.Unlock()
	end := s.spool.end()
	h := head{s.n, now.UnixNano()}
	if g := p.Gap; g.Why != noReason {
		if g.From == p.Consumed {
			if g.To == g.From && g.Why != killed {
				return l.close(s, g)
			}
			if g.Why == limited && !open && !ended {
				return l.limit(s, again)
			}
			return l.begin(write{Kind: missing, Stream: int64(s.n), Gap: g, Stamp: h.stamp}, h.note(g.Lines, g.To-g.From, g.Why, g.Errno))
		}
		end, ended = g.From, true // a gap begins with a line, or cuts one that is too long anyway
	}
	fresh := max(p.Consumed, s.scanned)
	if fresh >= end && !(ended && p.Consumed < end) {
		return io.EOF
	}
	if !open {
		return l.limit(s, again)
	}
	in := l.pools.in.Get().(*[]byte)
	defer l.pools.in.Put(in)
	buf := (*in)[:min(end-p.Consumed, inSize)]
	if err := s.spool.read(buf, p.Consumed); err != nil {
		return err
	}
	lent := l.pools.out.Get().(*[]byte)
	defer l.pools.out.Put(lent)
	out, n := h.records((*lent)[:0], buf, ended && int64(len(buf)) == end-p.Consumed, outSize)
	*lent = out[:0]
	if n == 0 {
		s.scanned = end
		return io.EOF
	}
	return l.begin(write{Kind: lines, Stream: int64(s.n), Gap: gap{From: p.Consumed, To: p.Consumed + int64(n)}, Stamp: h.stamp}, out)
}

// close ends a gap that nothing has come into.
func (l *Log) close(s *stream, g gap) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := &l.state.Streams[s.n]; p.Gap == g {
		p.Gap = gap{}
		l.ledger.save(&l.state)
	}
	return errMoved
}

// limit counts what is more than the rate.
func (l *Log) limit(s *stream, again time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.retryInLocked(again)
	if err := s.dropLocked(limited); err != nil {
		return err
	}
	return io.EOF
}

// begin notes a write in the ledger and does it.
func (l *Log) begin(w write, out []byte) error {
	l.mu.Lock()
	g := &l.state.Streams[w.Stream].Gap
	switch {
	case w.Kind == missing && *g != w.Gap, w.Kind == lines && g.Why != noReason && g.From < w.Gap.To:
		l.mu.Unlock()
		return errMoved
	case w.Kind == missing:
		*g = gap{}
	default:
		l.bucket.pour(w.Gap.To - w.Gap.From)
	}
	w.Before = l.size
	l.state.Write = w
	l.ledger.save(&l.state)
	l.mu.Unlock()
	crashpoint.At("log", l.path)
	return l.write(out)
}

// write writes the rest of the write that is under way, and notes that it is done.
func (l *Log) write(out []byte) error {
	if n, err := l.f.Write(out); err != nil {
		return fmt.Errorf("log: %d of %d bytes: %w", n, len(out), err)
	}
	crashpoint.At("logged", l.path)
	l.mu.Lock()
	w := l.state.Write
	s := l.streams[w.Stream]
	p := &l.state.Streams[w.Stream]
	p.Consumed = w.Gap.To
	l.written++
	l.state.Write = write{}
	l.ledger.save(&l.state)
	crashpoint.At("consumed", l.path)
	if p.Gap.Why == noReason && s.spool.empty(p.Consumed) {
		crashpoint.At("emptied", l.path)
		p.Consumed, s.scanned = 0, 0
		l.ledger.save(&l.state)
	} else {
		s.spool.free(0, p.Consumed)
	}
	l.mu.Unlock()
	select {
	case s.freed <- struct{}{}:
	default:
	}
	return nil
}
