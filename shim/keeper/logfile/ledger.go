package logfile

import (
	"fmt"
	"sync/atomic"
)

// A gap is a part of a spool that is not logged but counted.
type gap struct {
	From, To int64
	Lines    int64 // ends of lines in it
	Why      reason
	Errno    int64
}

// A progress is how far a stream has come.
type progress struct {
	Consumed int64 // of the spool; what is before it is in the log
	Gap      gap   // comes after Consumed
	Memory   int64 // 1: the spool is in this process's memory
}

// kinds of writes.
const (
	nothing int64 = iota
	lines         // From to To of the spool
	missing       // the note of a gap
)

// A write is the one write to the log that is under way.
type write struct {
	Kind   int64
	Stream int64
	Gap    gap   // From and To; the rest for missing alone
	Stamp  int64 // Unix time in nanoseconds
	Before int64 // the log's size
}

// A fileID is a file of a file system, by whatever name.
type fileID struct{ Dev, Ino uint64 }

// A state is what the ledger keeps. It has nothing but words in it.
type state struct {
	Streams    [2]progress
	Write      write
	File, Prev fileID // the log, and what was the log before it was rotated
}

// magic is the layout's version.
const magic = 0x6265727468_0001

// A page is the ledger's file. A state is changed by writing the other slot and then choosing
// it: whoever finds the file has the old state or the new one.
type page struct {
	magic  uint64
	chosen uint64
	slots  [2]state
}

// A ledger is a mapped page.
type ledger struct {
	p   *page
	mem []byte // nil: not in a file
}

// load returns the state, which is empty in a new ledger.
func (l *ledger) load() (state, error) {
	switch l.p.magic {
	case 0:
		atomic.StoreUint64(&l.p.magic, magic)
	case magic:
	default:
		return state{}, fmt.Errorf("log ledger: version %#x is not known", l.p.magic)
	}
	return l.p.slots[l.p.chosen&1], nil
}

func (l *ledger) save(s *state) {
	next := 1 - l.p.chosen&1
	l.p.slots[next] = *s
	atomic.StoreUint64(&l.p.chosen, next)
}

// fit makes sense of what was found with a spool of size bytes: one that was emptied
// just before the end starts anew.
func (p *progress) fit(size int64) {
	if p.Memory != 0 {
		*p = progress{Consumed: size, Gap: gap{From: size, To: size, Why: killed}}
	}
	if p.Consumed < 0 || p.Consumed > size || p.Gap.Why != noReason && (p.Gap.From < p.Consumed || p.Gap.To < p.Gap.From || p.Gap.To > size) {
		*p = progress{}
	}
}
