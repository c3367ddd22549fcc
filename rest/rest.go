package rest

import (
	"runtime"
	"runtime/debug"
	"time"
)

// After is how long nothing begins or ends before memory is given back. What takes longer may
// be under way then: it goes on.
const After = 5 * time.Second

// A Rest is what a process goes to when it is asked for nothing any more. The zero value is one
// that is not taken. It is safe for concurrent use.
type Rest struct{ timer *time.Timer }

// New returns a Rest that is taken, each time, After the last PutOff.
func New() Rest { return newRest(giveBack) }

func newRest(take func()) Rest {
	t := time.AfterFunc(After, take)
	t.Stop()
	return Rest{t}
}

// PutOff is called when something was done.
func (r Rest) PutOff() {
	if r.timer != nil {
		r.timer.Reset(After)
	}
}

func giveBack() {
	parts := program() // reads a file, the first time
	runtime.GC() // buffers that are kept for the next in need go at the second collection
	debug.FreeOSMemory()
	letGo(parts)
}
