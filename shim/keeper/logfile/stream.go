package logfile

import (
	"bytes"
	"errors"
	"os"
	"time"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/crashpoint"
)

const (
	// Room is how much of a stream waits for its log, in bytes.
	Room = 2 << 20
	// BlockLimit is how long a stream is left unread when its log is written too slowly
	// and there is no more room.
	BlockLimit = 2 * time.Second
	// reliefAfter is how long a write may take before somebody else reads on.
	reliefAfter = 100 * time.Millisecond
	// hangupPause is between two looks at a terminal that nobody has open.
	hangupPause = 100 * time.Millisecond
)

// A Source is where a stream comes from.
type Source struct {
	File  *os.File // a pipe's reading end, or a terminal's master; O_NONBLOCK was set when it was made
	Ferry *Ferry   // for what is not a pipe; nil makes one

	// Listening says whether somebody listens, Listen gives them a copy, and End tells
	// them that there is no more. They do not wait.
	Listening func() bool
	Listen    func([]byte)
	End       func()

	Ended <-chan struct{} // closed when the process has: a terminal's hangup is the end then
}

// A Ferry is a pipe between a terminal and its spool. Where a successor is to lose nothing it
// has to be given the same one.
type Ferry struct{ R, W *os.File }

// A stream is one of a log's streams. One goroutine at a time reads it and, as a rule, writes
// what it has read to the log. When that takes long, another one reads on.
type stream struct {
	l     *Log
	n     int
	spool *spool
	src   Source

	scanned int64         // there is no whole line from Consumed to here; of the flusher
	freed   chan struct{} // gets a token when there is more room
	done    chan struct{} // closed when it has ended and all is logged, or the log is failing
	started bool
	own     bool // the ferry is ours
	pace    pace // of who reads

	// guarded by the log's mu
	ended    bool // there is nothing more to read
	finished bool // done is closed
	flushing bool
	again    bool // the flusher has to look again
	big      bool // its pipe was made to hold bigPipe, and counts among those
	reading  int  // the number of the goroutine that reads
	busy     bool // it writes the log just now
	relief   *time.Timer
	retry    *time.Timer
}

func newStream(l *Log, n int, sp *spool) *stream {
	return &stream{l: l, n: n, spool: sp, freed: make(chan struct{}, 1), done: make(chan struct{})}
}

// Start has stream n, 0 for stdout and 1 for stderr, logged until it ends or the deadline of
// its file has passed.
func (l *Log) Start(n int, src Source) {
	s := l.streams[n]
	s.src, s.started = src, true
	if s.spool == nil {
		go s.discard()
		return
	}
	if !isPipe(src.File) && src.Ferry == nil {
		if r, w, err := os.Pipe(); err == nil {
			s.src.Ferry, s.own = &Ferry{r, w}, true
		}
	}
	go s.run(0)
}

// run reads as number me until the stream ends or another has taken over.
func (s *stream) run(me int) {
	if !s.l.enter() {
		return
	}
	defer s.l.leave()
	for {
		at := s.spool.end()
		n, err := s.take()
		crashpoint.At("spooled", s.l.path)
		if n > 0 {
			s.took(n, time.Now())
			s.copy(at, n)
		}
		switch {
		case err == nil && n > 0:
		case err != nil && noRoom(err):
			s.makeRoom(err)
		case hangup(err): // nobody has the terminal open; while the process lives somebody may again
			select {
			case <-s.src.Ended:
				s.end()
				return
			case <-time.After(hangupPause):
			}
		default:
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, os.ErrClosed) {
				klog.ErrorS(err, "Container log: a stream cannot be read", "path", s.l.path, "stream", names[s.n])
			}
			s.end()
			return
		}
		if !s.dropping() && !s.log(me) {
			return
		}
		s.pace.rest()
	}
}

// log writes what there is and says whether it is still our turn to read.
func (s *stream) log(me int) bool {
	l := s.l
	l.mu.Lock()
	s.busy = true
	if s.relief == nil {
		s.relief = time.AfterFunc(reliefAfter, s.relieve)
	} else {
		s.relief.Reset(reliefAfter)
	}
	l.mu.Unlock()
	l.flush(s)
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.reading != me {
		return false
	}
	s.busy = false
	s.relief.Stop()
	return true
}

// relieve has another goroutine read on while a write takes long.
func (s *stream) relieve() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if s.busy && !s.l.closed {
		s.busy = false
		s.reading++
		go s.run(s.reading)
	}
}

// take moves what the stream says to the spool.
func (s *stream) take() (int64, error) {
	f := s.src.Ferry
	if f == nil {
		n, err := s.spool.take(s.src.File)
		if err != nil && unspliced(err) {
			return s.takePlain()
		}
		return n, err
	}
	if n, err := s.spool.takeNow(f.R); n > 0 || err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err // a predecessor's, or what found no room
	}
	if _, err := carry(s.src.File, f.W); err != nil {
		if unspliced(err) { // Linux before 5.11
			return s.takePlain()
		}
		return 0, err
	}
	return s.spool.takeNow(f.R)
}

// takePlain is take for what the kernel does not splice.
func (s *stream) takePlain() (int64, error) {
	in, n, err := readReady(s.src.File, &s.l.pools.in)
	if n > 0 {
		err = s.spool.put((*in)[:n])
	}
	if in != nil {
		s.l.pools.in.Put(in)
	}
	return int64(n), err
}

// copy gives those who listen what was taken.
func (s *stream) copy(at, n int64) {
	if s.src.Listening == nil || !s.src.Listening() {
		return
	}
	in := s.l.pools.in.Get().(*[]byte)
	defer s.l.pools.in.Put(in)
	for n > 0 {
		buf := (*in)[:min(n, inSize)]
		if s.spool.read(buf, at) != nil {
			return
		}
		s.src.Listen(buf)
		at, n = at+int64(len(buf)), n-int64(len(buf))
	}
}

// end has the rest logged.
func (s *stream) end() {
	if s.src.End != nil {
		s.src.End()
	}
	if s.own {
		s.src.Ferry.R.Close()
		s.src.Ferry.W.Close()
	}
	l := s.l
	l.mu.Lock()
	s.ended = true
	s.shrinkLocked()
	l.retryAt = time.Time{} // once more before somebody is told that it fails
	l.mu.Unlock()
	l.flush(s)
}

// checkDoneLocked tells who waits that there is nothing more to wait for.
func (s *stream) checkDoneLocked() {
	p := s.l.state.Streams[s.n]
	w := s.l.state.Write
	all := p.Consumed == s.spool.end() && p.Gap.Why == noReason && (w.Kind == nothing || int(w.Stream) != s.n)
	if s.ended && !s.finished && (all || s.l.err != nil) {
		s.finished = true
		close(s.done)
	}
}

// heldLocked is how much of stream n waits, in bytes.
func (l *Log) heldLocked(n int) int64 {
	p, w := l.state.Streams[n], l.state.Write
	held := l.streams[n].spoolEnd() - p.Consumed - (p.Gap.To - p.Gap.From)
	if w.Kind == missing && int(w.Stream) == n {
		held -= w.Gap.To - w.Gap.From
	}
	return held
}

func (s *stream) spoolEnd() int64 {
	if s.spool == nil {
		return 0
	}
	return s.spool.end()
}

// dropping counts what has come instead of keeping it, if there is no more room.
func (s *stream) dropping() bool {
	l := s.l
	for timeout := (<-chan time.Time)(nil); ; {
		l.mu.Lock()
		why := l.state.Streams[s.n].Gap.Why
		drop := why == failing || why == slow
		full := l.heldLocked(s.n) >= Room
		if full && l.err != nil {
			drop, why = true, failing
		}
		if drop {
			if err := s.dropLocked(why); err != nil {
				klog.ErrorS(err, "Container log: output is not counted", "path", l.path)
			}
			l.mu.Unlock()
			return true
		}
		mine := !s.flushing
		l.mu.Unlock()
		if !full || mine { // who flushes makes room
			return false
		}
		if timeout == nil {
			timeout = time.After(BlockLimit)
		}
		select {
		case <-s.freed:
		case <-timeout:
			l.mu.Lock()
			if l.heldLocked(s.n) >= Room {
				if err := s.dropLocked(slow); err != nil {
					klog.ErrorS(err, "Container log: output is not counted", "path", l.path)
				}
			}
			l.mu.Unlock()
			return true
		}
	}
}

// dropLocked takes the whole lines at the spool's end into its gap. What there was room for
// stays: a new gap begins empty, and what comes goes into it. For the rate's sake all that is
// not consumed goes.
func (s *stream) dropLocked(why reason) error {
	l := s.l
	p := &l.state.Streams[s.n]
	g, end := p.Gap, s.spool.end()
	if g.Why == noReason {
		g = gap{From: p.Consumed}
		if w := l.state.Write; w.Kind != nothing && int(w.Stream) == s.n {
			g.From = max(g.From, w.Gap.To)
		}
		if why != limited { // what there was room for stays
			start, err := s.lineStart(g.From, end)
			if err != nil {
				return err
			}
			g.From = start
		}
		g.To = g.From
	}
	in := l.pools.in.Get().(*[]byte)
	defer l.pools.in.Put(in)
	for g.To < end {
		buf := (*in)[:min(end-g.To, inSize)]
		if err := s.spool.read(buf, g.To); err != nil {
			return err
		}
		n := bytes.LastIndexByte(buf, '\n') + 1
		if n == 0 && (len(buf) > MaxLine || s.ended) {
			n = len(buf)
		}
		if n == 0 {
			break
		}
		g.Lines += int64(bytes.Count(buf[:n], []byte{'\n'}))
		g.To += int64(n)
	}
	if g.To == g.From && why == limited {
		return nil
	}
	if g.Why = why; why == failing && l.err != nil {
		g.Errno = errnoOf(l.err)
	}
	p.Gap = g
	l.ledger.save(&l.state)
	crashpoint.At("dropped", l.path)
	s.spool.free(g.From&^4095+4096, g.To)
	return nil
}

// lineStart is where the line begins that the spool ends with, not before floor. The last
// that was read is dropped whole.
func (s *stream) lineStart(floor, end int64) (int64, error) {
	floor = max(floor, end-MaxLine)
	buf := make([]byte, end-floor)
	if err := s.spool.read(buf, floor); err != nil {
		return 0, err
	}
	return floor + int64(bytes.LastIndexByte(buf, '\n')+1), nil
}

// makeRoom waits for the flusher when the spool's file system is full, or goes on in memory.
func (s *stream) makeRoom(err error) {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	p := &l.state.Streams[s.n]
	from := p.Consumed
	if w := l.state.Write; w.Kind != nothing && int(w.Stream) == s.n {
		from = w.Gap.From
	}
	if p.Memory == 0 {
		klog.ErrorS(err, "Container log: output is in memory until it is written", "path", l.path)
	}
	p.Memory = 1
	l.ledger.save(&l.state)
	if err := s.spool.toMemory(from); err != nil {
		klog.ErrorS(err, "Container log: no memory for output; it waits", "path", l.path)
		time.Sleep(hangupPause)
	}
}

// retryInLocked has the stream's log looked at again after d.
func (s *stream) retryInLocked(d time.Duration) {
	if s.retry == nil {
		s.retry = time.AfterFunc(d, func() { s.l.flush(s) })
		return
	}
	s.retry.Reset(d)
}

// stopLocked ends what would come later.
func (s *stream) stopLocked() {
	s.shrinkLocked()
	for _, t := range []*time.Timer{s.relief, s.retry} {
		if t != nil {
			t.Stop()
		}
	}
}

// discard reads to the end for those who listen.
func (s *stream) discard() {
	defer close(s.done)
	if s.src.End != nil {
		defer s.src.End()
	}
	for {
		lent, n, err := readReady(s.src.File, &s.l.pools.in)
		if n > 0 && s.src.Listen != nil {
			s.src.Listen((*lent)[:n])
		}
		if lent != nil {
			s.l.pools.in.Put(lent)
		}
		switch {
		case err == nil && n > 0:
		case hangup(err):
			select {
			case <-s.src.Ended:
				return
			case <-time.After(hangupPause):
			}
		default:
			return
		}
	}
}
