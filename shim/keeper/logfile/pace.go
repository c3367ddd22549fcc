package logfile

import "time"

const (
	// pipeSize is what a pipe holds when it is made, in bytes.
	pipeSize = 64 << 10
	// bigPipe is what the pipe of a stream that has much to say is made to hold.
	bigPipe = 256 << 10
	// maxBig bounds the pipes that are made so. The kernel gives a user's new pipes two pages,
	// unless the process is privileged, when the user's pipes have 16384 (pipe(7),
	// pipe-user-pages-soft), and root in a container is the same user.
	maxBig = 32
	// beat is how long output may gather in its pipe.
	beat = time.Millisecond
	// shortest is the least that it is let gather: to sleep and wake takes about as long.
	shortest = 50 * time.Microsecond
	// steady is how many times in a row output comes within a beat before it is let gather.
	steady = 8
)

// A pace is how a stream is read. Reading, and writing to the log, cost about the same however
// little there is. So a stream that says little at a time, all the time, is let gather a part
// of what its pipe holds before it is read again. Others are read at once.
type pace struct {
	last  time.Time     // when it was ready for more
	quick int           // how many times in a row something came within a beat of that
	gap   time.Duration // how long output gathers
}

// took is told that n bytes were taken.
func (s *stream) took(n int64, now time.Time) {
	p := &s.pace
	if now.Sub(p.last) > beat {
		p.quick, p.gap = 0, 0
		return
	}
	if p.quick++; p.quick < steady {
		return
	}
	room := pipeRoom(s.src.File)
	if n >= pipeSize/2 && 0 < room && room < bigPipe { // full: of each page more than half is used
		s.grow()
	}
	p.gap = gapAfter(p.gap, n, room)
}

// gapAfter is how long to wait before a read when the last one has found n bytes, after gap, in
// a pipe that holds room.
func gapAfter(gap time.Duration, n, room int64) time.Duration {
	switch {
	case room == 0: // no pipe
		return 0
	case n > room/2:
		if gap /= 2; gap < shortest {
			return 0
		}
	case n < room/8:
		return min(max(2*gap, shortest), beat)
	}
	return gap
}

// rest waits, if need be, before the next read.
func (p *pace) rest() {
	if p.gap > 0 {
		time.Sleep(p.gap)
	}
	p.last = time.Now()
}

// grow has the stream's pipe hold more, unless too many do.
func (s *stream) grow() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if s.big || s.l.closed {
		return
	}
	if s.l.pools.big.Add(1) > maxBig {
		s.l.pools.big.Add(-1)
		return
	}
	s.big = true
	growPipe(s.src.File)
}

// shrinkLocked says that a pipe that was made to hold more has come to its end.
func (s *stream) shrinkLocked() {
	if s.big {
		s.big = false
		s.l.pools.big.Add(-1)
	}
}
