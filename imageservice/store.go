package imageservice

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/snapshot/durable"
)

// A record is an image and what it takes to write it down. It is a value: to change
// one, store another.
type record struct {
	image    Image // Pinned is not kept
	manifest digest.Digest
	pulled   time.Time
}

// A store is the images on disk and their view in memory.
type store struct {
	dir     string
	pinned  pins
	reserve *durable.Reserve

	mu      sync.Mutex               // orders writers; held across disk writes, so readers never take it
	records map[digest.Digest]record // the view's; the map is not changed once it is there
	// unseal lists chains whose seal may be there and that no image may need: written before
	// one is sealed and when an image goes.
	unseal [][]digest.Digest

	aside bool // an index that could not be read may name what no image does; set by load

	view atomic.Pointer[view]
}

// intend notes that the chain is about to be sealed, so that a crash does not leave
// a seal nobody knows of.
func (st *store) intend(chain []digest.Digest) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.view.Load().needed[sealKey(chain)] || st.hasUnseal(chain) {
		return nil
	}
	return st.changeLocked(st.records, append(slices.Clone(st.unseal), chain))
}

func (st *store) hasUnseal(chain []digest.Digest) bool {
	return slices.ContainsFunc(st.unseal, func(c []digest.Digest) bool { return slices.Equal(c, chain) })
}

// put adds an image with its documents (an artifact has no configuration), or adds its names to the one that is
// there. Its names leave other images; an image keeps its repository digests.
func (st *store) put(rec record, manifest, config []byte) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	old, existed := st.records[rec.image.ID]
	if existed && old.image.IsArtifact() != rec.image.IsArtifact() {
		return fmt.Errorf("store: %s is an artifact's manifest and an image's configuration at once: %w", rec.image.ID, ErrCorrupt)
	}
	if !rec.image.IsArtifact() {
		if err := durable.WriteFile(st.configFile(rec.image.ID), config, 0o600); err != nil {
			return fmt.Errorf("store: %w", err)
		}
	}
	if err := durable.WriteFile(st.manifestFile(rec.manifest), manifest, 0o600); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	unseal := slices.DeleteFunc(slices.Clone(st.unseal), func(c []digest.Digest) bool { return slices.Equal(c, rec.image.DiffIDs) })
	if err := st.changeLocked(withNames(st.records, rec, rec.image.Tags, rec.image.Digests), unseal); err != nil {
		return err
	}
	if existed && old.manifest != rec.manifest {
		_ = durable.Remove(st.manifestFile(old.manifest)) // else swept at the next start
	}
	return nil
}

// name adds names to the image id. It is false when the image has gone.
func (st *store) name(id digest.Digest, tags, digests []string) (bool, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	rec, ok := st.records[id]
	if !ok {
		return false, nil
	}
	has := func(have, want []string) bool {
		return !slices.ContainsFunc(want, func(s string) bool { return !slices.Contains(have, s) })
	}
	if has(rec.image.Tags, tags) && has(rec.image.Digests, digests) {
		return true, nil
	}
	return true, st.changeLocked(withNames(st.records, rec, tags, digests), st.unseal)
}

// withNames returns records with rec in it under the names it had and the new ones,
// which all others lose.
func withNames(records map[digest.Digest]record, rec record, tags, digests []string) map[digest.Digest]record {
	out := maps.Clone(records)
	if out == nil {
		out = map[digest.Digest]record{}
	}
	without := func(have, gone []string) []string {
		return slices.DeleteFunc(slices.Clone(have), func(s string) bool { return slices.Contains(gone, s) })
	}
	union := func(a, b []string) []string {
		all := slices.Concat(a, b)
		slices.Sort(all)
		return slices.Compact(all)
	}
	for id, other := range out {
		other.image.Tags = without(other.image.Tags, tags)
		other.image.Digests = without(other.image.Digests, digests)
		out[id] = other
	}
	old := out[rec.image.ID]
	rec.image.Tags = union(old.image.Tags, tags)
	rec.image.Digests = union(old.image.Digests, digests)
	out[rec.image.ID] = rec
	return out
}

// drop takes the image id away. Its layers stay. An absent one is fine.
func (st *store) drop(id digest.Digest) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	rec, ok := st.records[id]
	if !ok {
		return nil
	}
	records := maps.Clone(st.records)
	delete(records, id)
	unseal := st.unseal
	if !newView(records, nil, pins{}).needed[sealKey(rec.image.DiffIDs)] && !st.hasUnseal(rec.image.DiffIDs) {
		unseal = append(slices.Clone(unseal), rec.image.DiffIDs)
	}
	err := st.changeLocked(records, unseal)
	if durable.IsFull(err) { // what frees space must not need any
		if err = st.reserve.GiveUp(); err == nil {
			err = st.changeLocked(records, unseal)
		}
	}
	if err != nil {
		return err
	}
	// What stays behind here is swept at the next start.
	_ = durable.Remove(st.manifestFile(rec.manifest))
	_ = durable.Remove(st.configFile(rec.image.ID))
	return nil
}

// seals lists the chains that may have to be unsealed.
func (st *store) seals() [][]digest.Digest {
	st.mu.Lock()
	defer st.mu.Unlock()
	return slices.Clone(st.unseal)
}

// unsealed forgets chains that have no seal any more. It is not written down at
// once: unsealing twice is fine.
func (st *store) unsealed(chain []digest.Digest) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.unseal = slices.DeleteFunc(slices.Clone(st.unseal), func(c []digest.Digest) bool { return slices.Equal(c, chain) })
	st.view.Store(newView(st.records, st.unseal, st.pinned))
}

// changeLocked writes the index and then shows it. When that fails, memory is as before.
func (st *store) changeLocked(records map[digest.Digest]record, unseal [][]digest.Digest) error {
	data, err := encodeIndex(records, unseal)
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	if err := durable.WriteFile(st.indexFile(), data, 0o600); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	st.records, st.unseal = records, unseal
	st.view.Store(newView(records, unseal, st.pinned))
	return nil
}

func (st *store) indexFile() string { return filepath.Join(st.dir, "index.json") }

func (st *store) configFile(d digest.Digest) string {
	return filepath.Join(st.dir, "configs", "sha256", d.Encoded())
}

func (st *store) manifestFile(d digest.Digest) string {
	return filepath.Join(st.dir, "manifests", "sha256", d.Encoded())
}
