package logfile

import (
	"sync"
	"sync/atomic"
)

// Pools lend the memory that output moves through.
type Pools struct {
	in, out sync.Pool
	big     atomic.Int32 // pipes that were made to hold bigPipe
}

// inSize has room for what is read at once, behind an unfinished line.
const inSize = pipeSize + MaxLine

// outSize bounds a write, and the memory that one read can need when its lines are short.
const outSize = 256 << 10

// NewPools returns empty pools, for any number of logs.
func NewPools() *Pools {
	return &Pools{
		in:  sync.Pool{New: func() any { b := make([]byte, inSize); return &b }},
		out: sync.Pool{New: func() any { b := make([]byte, 0, 2*pipeSize); return &b }},
	}
}
