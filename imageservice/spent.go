package imageservice

import (
	"sync/atomic"
	"time"
)

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

// stages are the parts of s by name.
func (s *spent) stages() []StageTime {
	return []StageTime{{"slot", s.slot.get()}, {"transfer", s.transfer.get()}, {"hash_blob", s.hashBlob.get()}, {"decompress", s.decompress.get()},
		{"hash_archive", s.hashArchive.get()}, {"unpack", s.unpack.get()}, {"sync", s.sync.get()}, {"seal", s.seal.get()}, {"commit", s.commit.get()}}
}

// pairs is s as a log line has it.
func (s *spent) pairs() []any {
	ms := func(d *duration) string { return d.get().Round(time.Millisecond).String() }
	return []any{"slot", ms(&s.slot), "transfer", ms(&s.transfer), "hashBlob", ms(&s.hashBlob), "decompress", ms(&s.decompress),
		"hashArchive", ms(&s.hashArchive), "unpack", ms(&s.unpack), "sync", ms(&s.sync), "seal", ms(&s.seal), "commit", ms(&s.commit)}
}
