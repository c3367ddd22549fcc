// Package precedence lets pods' creations, which somebody waits for, go before the
// unpacking of layers, which would take all of a small node's processors for seconds.
//
// Unpacking always gets on: it is held up for half of the time at the most. Nothing is
// kept on disk.
package precedence

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// most is for how long work is held up in one go, if it has not been before.
	most = time.Second
	// least is for how long it then goes on, at the least, before it is held up again.
	least = 100 * time.Millisecond
)

// A Junction is where work that can wait gives way. The zero value is ready. It is safe
// for concurrent use; a nil one holds nothing up.
type Junction struct {
	busy atomic.Bool // inside > 0

	mu     sync.Mutex
	inside int           // of what has precedence
	clear  chan struct{} // closed when inside is 0
	since  time.Time     // as of when the next two are right
	spent  time.Duration // of most
	open   bool          // most is spent: work goes on whoever is inside
}

// Enter says that something has begun that has precedence, and that it has ended when leave
// is called, once.
func (j *Junction) Enter() (leave func()) {
	if j == nil {
		return func() {}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.inside == 0 {
		j.reckon()
		j.clear = make(chan struct{})
		j.busy.Store(true)
	}
	j.inside++
	return j.leave
}

func (j *Junction) leave() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.inside == 1 {
		j.reckon()
		close(j.clear)
		j.busy.Store(false)
	}
	j.inside--
}

// GiveWay returns when work that can wait may go on for some milliseconds, after which it
// calls again; also when quit is closed.
func (j *Junction) GiveWay(quit <-chan struct{}) {
	if j == nil || !j.busy.Load() {
		return
	}
	j.mu.Lock()
	j.reckon()
	clear, left := j.clear, most-j.spent
	if j.inside == 0 || j.open {
		left = 0
	}
	j.mu.Unlock()
	if left <= 0 {
		return
	}
	enough := time.NewTimer(left)
	defer enough.Stop()
	select {
	case <-clear:
	case <-enough.C:
	case <-quit:
	}
}

// reckon brings what is spent up to date. It needs the lock.
func (j *Junction) reckon() {
	now := time.Now()
	passed := now.Sub(j.since)
	j.since = now
	if j.inside > 0 && !j.open {
		j.spent = min(j.spent+passed, most)
		j.open = j.spent == most
		return
	}
	j.spent = max(j.spent-passed, 0)
	j.open = j.open && j.spent > most-least
}
