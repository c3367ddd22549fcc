package snapshot

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/snapshot/durable"
)

// sealRecord is seal.json.
type sealRecord struct {
	// Layers are the names of the directories to stack, topmost first: each once, because a
	// layer applied again hides its earlier self, and none below one that hides all.
	Layers []string `json:"layers,omitempty"`
	// Top says that the seal has a directory to stack above them.
	Top bool `json:"top,omitempty"`

	// Chain is what an image was made of, base first; Parts are what its layers were like then,
	// in that order; Devices are the names of the layers that it has bytes of, in its own
	// order; Image is its checksum.
	Chain   []digest.Digest `json:"chain,omitempty"`
	Parts   []sealedPart    `json:"parts,omitempty"`
	Devices []string        `json:"devices,omitempty"`
	Image   uint32          `json:"imageCRC32C,omitempty"`

	Verity map[string]string `json:"verity,omitempty"` // as in layer.json
}

// A sealedPart is a layer as it was when an image was made of it: its checksums and the
// size of its data.
type sealedPart struct {
	Data   uint32 `json:"dataCRC32C"`
	Tree   uint32 `json:"treeCRC32C"`
	Blocks uint32 `json:"dataBlocks"`
}

// SealImage implements Seals.
func (o *overlay) SealImage(ctx context.Context, diffIDs []digest.Digest) error {
	name, err := sealName(diffIDs)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(o.path("seals", name)); err == nil {
		return o.haveAll(diffIDs)
	}
	if err := o.haveAll(diffIDs); err != nil {
		return err
	}
	err = o.make(ctx, o.path("seals", name), func(tmp string) error {
		rec, err := o.format.seal(ctx, tmp, diffIDs)
		if err != nil {
			return err
		}
		if err := o.sign(tmp); err != nil {
			return err
		}
		if err := writeRecord(filepath.Join(tmp, "seal.json"), rec); err != nil {
			return err
		}
		return durable.SyncTree(ctx, tmp)
	})
	if err = o.noted(ctx, err); err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	return durable.SyncDir(o.path("seals"))
}

// UnsealImage implements Seals.
func (o *overlay) UnsealImage(ctx context.Context, diffIDs []digest.Digest) error {
	name, err := sealName(diffIDs)
	if err != nil {
		return err
	}
	if err := o.discard(ctx, "seals", name); err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	return nil
}

func (o *overlay) haveAll(diffIDs []digest.Digest) error {
	for _, d := range diffIDs {
		if !o.HasLayer(d) {
			return fmt.Errorf("layer %s: %w; pull the image again", d, ErrNotFound)
		}
	}
	return nil
}

// meta is what a directory is beside its names.
type meta struct {
	mode, uid, gid uint32
	mtime          time.Time
	xattrs         map[string][]byte
}

// isImplied tells whether m, its date aside, is what a directory gets that no layer lists.
func (m meta) isImplied() bool {
	return m.mode == 0o755 && m.uid == 0 && m.gid == 0 && len(m.xattrs) == 0
}

func readMeta(path string) (meta, error) {
	dir, err := openAt(path)
	if err != nil {
		return meta{}, err
	}
	defer dir.close()
	return metaOf(dir)
}

func metaOf(dir at) (meta, error) {
	a, err := dir.stat(".")
	if err != nil {
		return meta{}, err
	}
	xattrs, err := readXattrs(dir, ".")
	return meta{mode: a.perm(), uid: a.uid, gid: a.gid, mtime: a.mtime, xattrs: xattrs}, err
}

// apply gives the directory dir what m says. Its names must be there already.
func (m meta) apply(dir at) error {
	if err := dir.chown(".", m.uid, m.gid); err != nil {
		return err
	}
	if err := dir.chmod(".", m.mode); err != nil {
		return err
	}
	if err := setXattrs(dir, ".", m.xattrs); err != nil {
		return err
	}
	return dir.chtimes(".", m.mtime)
}
