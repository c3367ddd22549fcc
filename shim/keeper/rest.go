package keeper

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"
)

// restAfter is how long nothing is done before the memory that was needed for it is given back.
const restAfter = 5 * time.Second

// A rest is what a shim goes to when it is asked for nothing any more, as it is nearly always.
// The zero value is one that is not taken.
type rest struct{ timer *time.Timer }

func newRest() rest {
	t := time.AfterFunc(restAfter, func() {
		runtime.GC() // buffers that are kept for the next in need go at the second collection
		debug.FreeOSMemory()
	})
	t.Stop()
	return rest{t}
}

// putOff is called when something was done.
func (r rest) putOff() {
	if r.timer != nil {
		r.timer.Reset(restAfter)
	}
}

// pass is the gate's enter. Who leaves has done something.
func (k *Keeper) pass(ctx context.Context, what string, kind passage) (leave func(), err error) {
	exit, err := k.gate.enter(ctx, what, kind)
	if err != nil {
		return nil, err
	}
	return func() {
		exit()
		k.rest.putOff()
	}, nil
}
