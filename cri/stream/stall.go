package stream

import (
	"io"
	"sync"
	"time"
)

// probeEvery is how often a client is probed while what it sends is not taken.
const probeEvery = 5 * time.Second

// A stall watches over writes of what a client has sent. While one waits, nobody
// reads from the connection, and a client that goes behind a full connection is
// not seen to go: its end is queued behind what it sent. So it is sent something
// that means nothing, an empty frame: its kernel answers that nobody is there, and
// the next one fails. A client that is there takes no notice, however long the
// wait.
type stall struct {
	to    io.Writer // to the client
	gone  func()    // called when it does not take the probe
	timer *time.Timer
	busy  sync.Mutex // a probe waits for a client that does not read either
}

// newStall probes through to while a write waits. A nil one cannot be probed.
func newStall(to io.Writer, gone func()) *stall {
	s := &stall{to: to, gone: gone}
	if to != nil {
		s.timer = time.AfterFunc(time.Hour, s.probe)
		s.timer.Stop()
	}
	return s
}

func (s *stall) probe() {
	if !s.busy.TryLock() {
		return
	}
	defer s.busy.Unlock()
	if _, err := s.to.Write(nil); err != nil {
		s.gone()
		return
	}
	s.timer.Reset(probeEvery)
}

// copy copies until either side ends. The error is that of the side written to.
func (s *stall) copy(to io.Writer, from io.Reader) error {
	if s.timer != nil {
		defer s.timer.Stop()
	}
	buf := make([]byte, copySize)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if s.timer != nil {
				s.timer.Reset(probeEvery)
			}
			_, werr := to.Write(buf[:n])
			if s.timer != nil {
				s.timer.Stop()
			}
			if werr != nil {
				return werr
			}
		}
		if err != nil {
			return nil
		}
	}
}
