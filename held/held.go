// Package held knows what goes on in this process for longer than a moment: operations and
// their stages, locks that are held across work and who waits for them, calls under way. It
// is what a dump of berthd says beside its stacks, and what its watchdog looks at.
//
// It is in memory alone, so a crash leaves nothing of it. All functions are safe for
// concurrent use, wait for nobody, and cost about a microsecond.
//
// What is noted is for people who look at a node: kinds, IDs and names, never a secret.
package held

import (
	"cmp"
	"context"
	"runtime/pprof"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Kinds of what is held.
const (
	Operation = "operation" // has a bound; its goroutines are known
	Stage     = "stage"     // of an operation
	Lock      = "lock"
	Wait      = "wait"   // for a lock
	Call      = "call"   // on berthd's socket
	Stream    = "stream" // such a call that lasts for as long as its client likes
)

// An Entry is one thing that is held.
type Entry struct {
	ID    uint64        `json:"id"`
	Kind  string        `json:"kind"`
	What  string        `json:"what"`
	By    uint64        `json:"by,omitempty"` // the operation that it belongs to; 0: none that is known
	Since time.Time     `json:"since"`
	Bound time.Duration `json:"bound_ns,omitempty"` // past which something is wrong; 0: none
}

// label is the goroutine label (runtime/pprof) with an operation's ID.
const label = "held"

// table is all that is held.
var table struct {
	mu      sync.Mutex
	last    uint64
	entries map[uint64]*Entry
	streams int           // of entries
	begun   chan struct{} // closed with the next entry that is no stream; nil: nobody waits for it
}

// Busy returns a channel that is closed when something is held that is to end by itself, which a
// Stream is not: at once, if there is such a thing now.
func Busy() <-chan struct{} {
	table.mu.Lock()
	defer table.mu.Unlock()
	if table.begun == nil {
		table.begun = make(chan struct{})
	}
	begun := table.begun
	if len(table.entries) > table.streams {
		tellLocked()
	}
	return begun
}

func tellLocked() {
	if table.begun != nil {
		close(table.begun)
		table.begun = nil
	}
}

func add(e Entry) uint64 {
	e.Since = time.Now()
	table.mu.Lock()
	defer table.mu.Unlock()
	if table.entries == nil {
		table.entries = map[uint64]*Entry{}
	}
	table.last++
	e.ID = table.last
	table.entries[e.ID] = &e
	if e.Kind == Stream {
		table.streams++
	} else {
		tellLocked()
	}
	return e.ID
}

func drop(id uint64) {
	table.mu.Lock()
	defer table.mu.Unlock()
	if e := table.entries[id]; e != nil && e.Kind == Stream {
		table.streams--
	}
	delete(table.entries, id)
}

// Do runs an operation, which must have ended within bound. It marks this goroutine, and
// those that it starts, as the operation's: Stuck looks at them. What is noted with the
// context that do gets belongs to it.
func Do(ctx context.Context, what string, bound time.Duration, do func(context.Context)) {
	id := add(Entry{Kind: Operation, What: what, Bound: bound, By: by(ctx)})
	defer drop(id)
	pprof.Do(ctx, pprof.Labels(label, strconv.FormatUint(id, 10)), do)
}

// Begin notes something of that kind, as ctx's operation's, until end is called. end may be
// called again.
func Begin(ctx context.Context, kind, what string) (end func()) {
	id := add(Entry{Kind: kind, What: what, By: by(ctx)})
	return func() { drop(id) }
}

func by(ctx context.Context) uint64 {
	text, _ := pprof.Label(ctx, label)
	id, _ := strconv.ParseUint(text, 10, 64) // "": 0
	return id
}

// List returns what is held now, oldest first.
func List() []Entry {
	table.mu.Lock()
	list := make([]Entry, 0, len(table.entries))
	for _, e := range table.entries {
		list = append(list, *e)
	}
	table.mu.Unlock()
	slices.SortFunc(list, func(a, b Entry) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// Overdue returns what is held for longer than its bound.
func Overdue(now time.Time) (late []Entry) {
	table.mu.Lock()
	defer table.mu.Unlock()
	for _, e := range table.entries {
		if e.Bound > 0 && now.Sub(e.Since) > e.Bound {
			late = append(late, *e)
		}
	}
	slices.SortFunc(late, func(a, b Entry) int { return cmp.Compare(a.ID, b.ID) })
	return late
}
