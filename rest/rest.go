package rest

import (
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// After is how long nothing begins or ends before memory is given back. What takes longer may
// be under way then: it goes on.
const After = 5 * time.Second

// A Rest is what a process goes to when it is asked for nothing any more. The zero value is one
// that is not taken. It is safe for concurrent use.
type Rest struct {
	timer *time.Timer
	taken *atomic.Bool // and not put off since
}

// New returns a Rest that is taken, each time, After the last PutOff. A process has one.
func New() Rest {
	r := newRest(giveBack)
	afterCollections(func() {
		if r.taken.Load() {
			letGo(program())
		}
	})
	return r
}

func newRest(take func()) Rest {
	r := Rest{taken: new(atomic.Bool)}
	r.timer = time.AfterFunc(After, func() {
		r.taken.Store(true)
		take()
	})
	r.timer.Stop()
	return r
}

// PutOff is called when something was done.
func (r Rest) PutOff() {
	if r.timer != nil {
		r.taken.Store(false)
		r.timer.Reset(After)
	}
}

func giveBack() {
	parts := program() // reads a file, the first time
	runtime.GC()       // buffers that are kept for the next in need go at the second collection
	debug.FreeOSMemory()
	letGo(parts)
}

// afterCollections has f called after each collection of garbage, from now on. Go's runtime makes
// one every two minutes when there is nothing to collect, and reads constants all over the
// program for it: what it needs to know of each function that waits, and of each type.
func afterCollections(f func()) {
	type mark struct{ _ [32]byte } // not so small that it shares its memory with others
	var again func(*mark)
	again = func(m *mark) {
		f()
		runtime.SetFinalizer(m, again)
	}
	runtime.SetFinalizer(new(mark), again)
}
