package imageservice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/imageservice/registry"
	"github.com/berthd/berth/snapshot"
	"github.com/berthd/berth/snapshot/durable"
)

// The form of index.json.
type (
	indexFile struct {
		Version int               `json:"version"` // 1
		Images  []json.RawMessage `json:"images"`  // of indexEntry, each read by itself
		Unseal  [][]digest.Digest `json:"unseal,omitempty"`
	}
	indexEntry struct {
		ID       digest.Digest `json:"id"`
		Manifest digest.Digest `json:"manifest"`
		Tags     []string      `json:"tags,omitempty"`
		Digests  []string      `json:"digests"`
		Size     int64         `json:"size"`
		Platform Platform      `json:"platform"` // for the reader; the configuration counts
		Pulled   time.Time     `json:"pulled"`
		// Layers are those of an artifact, so that they and their seal are known when its
		// manifest is damaged. An image's are in its configuration.
		Layers []digest.Digest `json:"layers,omitempty"`
	}
)

const (
	indexVersion = 1
	maxIndex     = 64 << 20 // bytes
)

func encodeIndex(records map[digest.Digest]record, unseal [][]digest.Digest) ([]byte, error) {
	doc := indexFile{Version: indexVersion, Images: []json.RawMessage{}, Unseal: unseal}
	ids := make([]digest.Digest, 0, len(records))
	for id := range records {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		r := records[id]
		e := indexEntry{
			ID: id, Manifest: r.manifest, Tags: r.image.Tags, Digests: r.image.Digests,
			Size: r.image.Size, Platform: r.image.Platform, Pulled: r.pulled,
		}
		if r.image.IsArtifact() {
			e.Layers = r.image.DiffIDs
		}
		data, err := json.Marshal(e)
		if err != nil {
			return nil, err
		}
		doc.Images = append(doc.Images, data)
	}
	return json.MarshalIndent(doc, "", " ")
}

// load reads the index. What is damaged is logged and dropped: a node must start.
// Files that no image names any more are swept.
func (st *store) load(ctx context.Context, layers snapshot.Layers) error {
	log := klog.FromContext(ctx)
	st.records = map[digest.Digest]record{}
	doc, err := st.readIndex()
	if err != nil { // of a newer release, or a bad disk: what it named is not known, and nothing is swept
		err = errors.Join(err, st.putAside())
		log.Error(err, "The image index cannot be read: starting without images; they can be pulled again", "kept", st.asideFile())
	}
	_, lerr := os.Lstat(st.asideFile())
	st.aside = err != nil || lerr == nil
	for _, c := range doc.Unseal {
		if !slices.ContainsFunc(c, func(d digest.Digest) bool { return registry.CheckDigest(d) != nil }) {
			st.unseal = append(st.unseal, c)
		}
	}
	taken := map[string]bool{}
	for _, raw := range doc.Images {
		rec, err := st.readEntry(raw)
		if err == nil {
			err = ready(ctx, layers, rec.image.DiffIDs)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			log.Error(err, "Dropped a damaged image; it can be pulled again", "image", rec.image.ID, "tags", rec.image.Tags)
			if rec.image.DiffIDs != nil {
				st.unseal = append(st.unseal, rec.image.DiffIDs)
			}
			continue
		}
		rec.image.Tags = unclaimed(rec.image.Tags, taken)
		rec.image.Digests = unclaimed(rec.image.Digests, taken)
		st.records[rec.image.ID] = rec
	}
	st.view.Store(newView(st.records, st.unseal, st.pinned))
	if st.aside {
		log.Info("Layers and manifests that no image names are kept for an image index that could not be read; remove it when it is of no use", "file", st.asideFile())
		return nil
	}
	return st.sweep()
}

// asideFile is an index that could not be read. Until somebody takes it away, what it may name is kept.
func (st *store) asideFile() string { return st.indexFile() + ".unread" }

// putAside keeps the index from being written over. The first one stays: it had more to say.
func (st *store) putAside() error {
	if _, err := os.Lstat(st.asideFile()); err == nil {
		return nil
	}
	return os.Rename(st.indexFile(), st.asideFile())
}

func (st *store) readIndex() (indexFile, error) {
	var doc indexFile
	data, err := registry.ReadFile(st.indexFile(), maxIndex)
	if errors.Is(err, fs.ErrNotExist) {
		return doc, nil
	}
	if err != nil {
		return doc, err
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return indexFile{}, fmt.Errorf("index: %w", err)
	}
	if doc.Version != indexVersion {
		return indexFile{}, fmt.Errorf("index: version %d: %w", doc.Version, ErrUnsupported)
	}
	return doc, nil
}

// readEntry reads an image by its entry and verifies its documents. With an error,
// the record says as much as is known.
func (st *store) readEntry(raw json.RawMessage) (rec record, err error) {
	var e indexEntry
	if err := json.Unmarshal(raw, &e); err != nil {
		return rec, fmt.Errorf("index entry: %w: %w", err, ErrCorrupt)
	}
	rec = record{image: Image{ID: e.ID, Tags: e.Tags, Digests: e.Digests, Size: e.Size}, manifest: e.Manifest, pulled: e.Pulled}
	if err := errors.Join(registry.CheckDigest(e.ID), registry.CheckDigest(e.Manifest)); err != nil {
		return rec, fmt.Errorf("index entry: %w", err)
	}
	for _, name := range slices.Concat(e.Tags, e.Digests) {
		if named, err := reference.ParseNormalizedNamed(name); err != nil || named.String() != name {
			return rec, fmt.Errorf("index entry: name %.300q: %w", name, ErrCorrupt)
		}
	}
	isArtifact := e.ID == e.Manifest
	if isArtifact && !slices.ContainsFunc(e.Layers, func(d digest.Digest) bool { return registry.CheckDigest(d) != nil }) {
		rec.image.DiffIDs = e.Layers
	}
	if !isArtifact {
		config, err := readVerified(st.configFile(e.ID), e.ID, maxConfig)
		if err != nil {
			return rec, err
		}
		parsed, err := parseConfig(config)
		if err != nil {
			return rec, err
		}
		rec.image.DiffIDs, rec.image.Config, rec.image.Platform = parsed.diffIDs, parsed.config, parsed.platform
	}
	data, err := readVerified(st.manifestFile(e.Manifest), e.Manifest, registry.MaxManifest)
	if err != nil {
		return rec, err
	}
	doc, err := parseDocument(data, "", "")
	if err != nil {
		return rec, err
	}
	switch {
	case doc.isIndex, isArtifact != doc.isArtifact(), !isArtifact && doc.config.Digest != e.ID:
		return rec, fmt.Errorf("index entry: manifest %s is of another image: %w", e.Manifest, ErrCorrupt)
	case isArtifact:
		if err := doc.check(); err != nil {
			return rec, err
		}
		img := doc.artifactImage(e.Manifest, data)
		rec.image.DiffIDs, rec.image.ArtifactType, rec.image.Files = img.DiffIDs, img.ArtifactType, img.Files
	}
	return rec, nil
}

// ready makes sure that an image of these layers can be mounted.
func ready(ctx context.Context, layers snapshot.Layers, chain []digest.Digest) error {
	for _, d := range chain {
		if !layers.HasLayer(d) {
			return fmt.Errorf("layer %s: %w", d, ErrNotFound)
		}
	}
	return layers.SealImage(ctx, chain)
}

// unclaimed returns the names that are not taken yet, and takes them.
func unclaimed(names []string, taken map[string]bool) []string {
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool {
		was := taken[n]
		taken[n] = true
		return was
	})
	sort.Strings(names)
	return names
}

// sweep removes documents without an image and the leavings of writes cut short.
func (st *store) sweep() error {
	keep := map[string]bool{}
	for id, r := range st.records {
		keep[st.configFile(id)], keep[st.manifestFile(r.manifest)] = true, true
	}
	if err := durable.Sweep(st.dir); err != nil {
		return err
	}
	for _, kind := range []string{"manifests", "configs"} {
		dir := filepath.Join(st.dir, kind, "sha256")
		if err := durable.Sweep(dir); err != nil {
			return err
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if file := filepath.Join(dir, e.Name()); !keep[file] {
				if err := os.RemoveAll(file); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// readVerified reads a document and compares its digest.
func readVerified(file string, want digest.Digest, limit int64) ([]byte, error) {
	data, err := registry.ReadFile(file, limit)
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(data); got != want {
		return nil, fmt.Errorf("%s: content has digest %s: %w", file, got, ErrCorrupt)
	}
	return data, nil
}
