package imageservice

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Progress is how far a pull under way has come. Bytes are those of layers as
// they are compressed; a layer that is there already counts as done. Total is 0
// until the manifest is known.
type Progress struct {
	Image        string // full name
	Since        time.Time
	Bytes, Total int64
	Layers, Done int // layers in all, layers finished
}

// pullProgress is a pull's counters.
type pullProgress struct {
	image  string
	since  time.Time
	bytes  atomic.Int64
	total  atomic.Int64
	layers atomic.Int32
	done   atomic.Int32
	spent  spent
}

// spent is where a pull's time went, of all its layers together: layers, and what is done
// for one, run side by side.
type spent struct {
	slot        duration // waiting for a turn
	transfer    duration // waiting for the registry, and reading
	hashBlob    duration
	decompress  duration
	hashArchive duration
	unpack      duration // and writing
	sync        duration // layers on their way to the disk
	seal        duration
	commit      duration
}

// A duration is added to by several at once.
type duration struct{ ns atomic.Int64 }

func (d *duration) add(t time.Duration)   { d.ns.Add(int64(t)) }
func (d *duration) get() time.Duration    { return time.Duration(d.ns.Load()) }
func (d *duration) since(begin time.Time) { d.add(time.Since(begin)) }

// layer adds what the driver took for the layer in a.
func (s *spent) layer(took time.Duration, a *archive) {
	if !a.verified.IsZero() {
		sync := time.Since(a.verified)
		s.sync.add(sync)
		took -= sync
	}
	s.unpack.add(took - a.waits.get() - a.hashed.get())
	s.hashArchive.add(a.hashed.get())
}

// pairs is s as a log line has it.
func (s *spent) pairs() []any {
	ms := func(d *duration) string { return d.get().Round(time.Millisecond).String() }
	return []any{"slot", ms(&s.slot), "transfer", ms(&s.transfer), "hashBlob", ms(&s.hashBlob), "decompress", ms(&s.decompress),
		"hashArchive", ms(&s.hashArchive), "unpack", ms(&s.unpack), "sync", ms(&s.sync), "seal", ms(&s.seal), "commit", ms(&s.commit)}
}

// begin notes what there is to fetch.
func (p *pullProgress) begin(doc document) {
	p.total.Store(doc.layerBytes())
	p.layers.Store(int32(len(doc.layers)))
}

// progressList is the pulls under way. The zero value is ready.
type progressList struct {
	mu    sync.Mutex
	pulls map[*pullProgress]bool
}

func (l *progressList) add(p *pullProgress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pulls == nil {
		l.pulls = map[*pullProgress]bool{}
	}
	l.pulls[p] = true
}

func (l *progressList) remove(p *pullProgress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pulls, p)
}

// Progress lists the pulls under way by name. It is cheap.
func (s *Service) Progress() []Progress {
	s.progress.mu.Lock()
	defer s.progress.mu.Unlock()
	var out []Progress
	for p := range s.progress.pulls {
		out = append(out, Progress{
			Image: p.image, Since: p.since, Bytes: p.bytes.Load(), Total: p.total.Load(),
			Layers: int(p.layers.Load()), Done: int(p.done.Load()),
		})
	}
	slices.SortFunc(out, func(a, b Progress) int { return strings.Compare(a.Image, b.Image) })
	return out
}
