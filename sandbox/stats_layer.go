package sandbox

import (
	"context"
	"errors"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/snapshot"
)

// LayerUsage is what a container's writable layer takes on disk, as it was measured.
type LayerUsage struct {
	Bytes  uint64 // allocated
	Inodes uint64
	At     time.Time
}

const (
	layerFresh   = time.Minute // a measurement is not repeated sooner
	layerFreshBy = 20          // nor before this many times as long as it took
	layerWidth   = 2           // measurements at once
)

// layers measures writable layers in the background, because that is a walk over all of
// their files, and only those that somebody asks for. Who asks gets the latest
// measurement at once; it may be the one before the one that this starts.
type layers struct {
	roots Roots
	start func(func(context.Context)) // runs the work in the background

	mu      sync.Mutex
	known   map[string]*layer
	queue   []string
	workers int
}

// A layer is a writable layer that was asked for. All of it is guarded by layers.mu.
type layer struct {
	usage *LayerUsage
	due   time.Time     // when it may be measured again
	busy  chan struct{} // closed when the measurement under way has ended; nil: none is
}

// usage returns the latest measurement of a container's layer. One that was never
// measured is waited for until ctx ends; then it is nil.
func (l *layers) usage(ctx context.Context, id string) *LayerUsage {
	usage, busy := l.ask(id)
	if usage != nil || busy == nil {
		return usage
	}
	select {
	case <-busy:
	case <-ctx.Done():
	}
	usage, _ = l.peek(id)
	return usage
}

// ask returns what is known, and has it measured again when it is due.
func (l *layers) ask(id string) (*LayerUsage, chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.known[id]
	if known == nil {
		known = &layer{}
		if l.known == nil {
			l.known = map[string]*layer{}
		}
		l.known[id] = known
	}
	if known.busy == nil && !time.Now().Before(known.due) {
		known.busy = make(chan struct{})
		l.queue = append(l.queue, id)
		if l.workers < layerWidth {
			l.workers++
			l.start(l.work)
		}
	}
	return known.usage, known.busy
}

func (l *layers) peek(id string) (*LayerUsage, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.known[id]
	if known == nil {
		return nil, false
	}
	return known.usage, true
}

// work measures what is in the queue, and ends when it is empty.
func (l *layers) work(ctx context.Context) {
	for {
		l.mu.Lock()
		if len(l.queue) == 0 {
			l.workers--
			l.mu.Unlock()
			return
		}
		id := l.queue[0]
		l.queue = l.queue[1:]
		l.mu.Unlock()

		at := time.Now()
		u, err := l.roots.Usage(ctx, id)
		if err != nil && !errors.Is(err, snapshot.ErrNotFound) && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Writable layer was not measured; the last figure stays", "container", id)
		}
		l.done(id, at, u, err)
	}
}

// done notes the end of a measurement that began at the given time.
func (l *layers) done(id string, at time.Time, u snapshot.Usage, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.known[id]
	if known == nil { // pruned meanwhile
		return
	}
	close(known.busy)
	known.busy = nil
	known.due = time.Now().Add(max(layerFresh, layerFreshBy*time.Since(at)))
	switch {
	case err == nil:
		known.usage = &LayerUsage{Bytes: u.Bytes, Inodes: u.Inodes, At: at}
	case errors.Is(err, snapshot.ErrNotFound):
		delete(l.known, id)
	}
}

// total adds up what is known of the layers of ids, has measured what is due, and
// forgets all others. It waits for nothing. At is when the last of them was measured,
// or now if none was.
func (l *layers) total(ids []string) LayerUsage {
	var sum LayerUsage
	live := make(map[string]bool, len(ids))
	for _, id := range ids {
		live[id] = true
		if u, _ := l.ask(id); u != nil {
			sum.Bytes += u.Bytes
			sum.Inodes += u.Inodes
			if u.At.After(sum.At) {
				sum.At = u.At
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, known := range l.known {
		if !live[id] && known.busy == nil {
			delete(l.known, id)
		}
	}
	if sum.At.IsZero() {
		sum.At = time.Now()
	}
	return sum
}

// Layers is what all containers' writable layers take, as far as it was measured. It
// answers at once.
func (s *Stats) Layers() LayerUsage {
	all := s.containers.List()
	ids := make([]string, len(all))
	for i, c := range all {
		ids[i] = c.Record().ID
	}
	return s.layers.total(ids)
}

// Filesystem describes the file system that the writable layers are on.
func (s *Stats) Filesystem() (Filesystem, error) { return filesystemAt(s.opts.Root) }
