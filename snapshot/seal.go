package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/snapshot/durable"
)

// sealRecord is seal.json.
type sealRecord struct {
	// Layers are the names of the layers to stack, topmost first: each once, because a
	// layer applied again hides its earlier self, and none below one that hides all.
	Layers []string `json:"layers"`
	// Top says that the seal has a directory to stack above them.
	Top bool `json:"top,omitempty"`
}

// maxStack is overlayfs's limit on lower directories (OVL_MAX_STACK), less the seal's.
const maxStack = 499

// SealImage implements Seals.
func (o *overlay) SealImage(ctx context.Context, diffIDs []digest.Digest) error {
	name, err := sealName(diffIDs)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(o.path("seals", name)); err == nil {
		return o.haveAll(diffIDs)
	}
	rec, err := o.stack(diffIDs)
	if err != nil {
		return err
	}
	merged, err := o.merge(ctx, rec.Layers)
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	err = o.make(ctx, o.path("seals", name), func(tmp string) error {
		if rec.Top = merged.settle(); rec.Top {
			if err := merged.build(filepath.Join(tmp, "fs")); err != nil {
				return err
			}
		}
		data, err := json.Marshal(rec)
		if err != nil {
			return err
		}
		if err := durable.Replace(filepath.Join(tmp, "seal.json"), data, 0o600); err != nil {
			return err
		}
		return durable.SyncTree(ctx, tmp)
	})
	if err != nil {
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
			return fmt.Errorf("layer %s: %w", d, ErrNotFound)
		}
	}
	return nil
}

// stack decides which layers of a chain are mounted.
func (o *overlay) stack(diffIDs []digest.Digest) (rec sealRecord, err error) {
	if err := o.haveAll(diffIDs); err != nil {
		return rec, err
	}
	seen := make(map[string]bool)
	for _, d := range slices.Backward(diffIDs) {
		name, err := layerName(d)
		if err != nil {
			return rec, err
		}
		if seen[name] {
			continue
		}
		seen[name] = true
		layer, err := o.readLayer(name)
		if err != nil {
			return rec, err
		}
		rec.Layers = append(rec.Layers, name)
		if layer.OpaqueRoot {
			break
		}
	}
	if len(rec.Layers) > maxStack {
		return rec, fmt.Errorf("image of %d layers: %w", len(rec.Layers), ErrTooLarge)
	}
	return rec, nil
}

// A merging is one directory of the merged tree that some layer has a mark on, with what
// is known of it so far. There are two marks, for two things that overlayfs does:
//
// It shows a merged directory with the metadata of the topmost layer that has it. If that
// one's archive did not list it (a/b/c without a and a/b), its metadata is made up, and
// /tmp would lose its sticky bit. tar onto the layers below would leave it as it was.
//
// It lists the whiteouts of a directory that only one layer has, as names that cannot be
// opened. An archive may well delete what the layers below it do not have.
//
// For both, the seal stacks a directory on top, which holds those directories, and nothing
// else, as the layers below give them.
type merging struct {
	subs map[string]*merging

	layers    int  // that have it and can be seen
	implicit  bool // the topmost of them implied it
	whiteouts bool // one of them has some in it
	meta      *meta
	closed    bool // nothing of the layers further down is seen in it
	needed    bool // the seal has it; set by settle
}

// at returns the directory at path below m.
func (m *merging) at(path string) *merging {
	for part := range strings.SplitSeq(path, "/") {
		if part == "." {
			continue
		}
		if m.subs[part] == nil {
			if m.subs == nil {
				m.subs = make(map[string]*merging)
			}
			m.subs[part] = &merging{}
		}
		m = m.subs[part]
	}
	return m
}

// marks are the paths of one layer's directories with a mark.
type marks struct{ implicit, whiteouts map[string]bool }

func (o *overlay) readMarks(layer string) (m marks, err error) {
	for name, into := range map[string]*map[string]bool{"implicit": &m.implicit, "whiteouts": &m.whiteouts} {
		data, err := os.ReadFile(o.path("layers", layer, name))
		if err != nil {
			return m, fmt.Errorf("layer %s: %w", layer, err)
		}
		*into = make(map[string]bool)
		for path := range strings.SplitSeq(string(data), "\x00") {
			if path != "" {
				(*into)[path] = true
			}
		}
	}
	return m, nil
}

// merge finds, for every directory that one of the layers (topmost first) has a mark on,
// what the merged tree should show. It reads each layer no further than the tree of those.
func (o *overlay) merge(ctx context.Context, layers []string) (*merging, error) {
	root := &merging{}
	all := make([]marks, len(layers))
	for i, name := range layers {
		var err error
		if all[i], err = o.readMarks(name); err != nil {
			return nil, err
		}
		for _, paths := range []map[string]bool{all[i].implicit, all[i].whiteouts} {
			for path := range paths {
				root.at(path)
			}
		}
	}
	for i, name := range layers {
		dir, err := openAt(o.path("layers", name, "fs"))
		if err != nil {
			return nil, err
		}
		err = root.look(ctx, dir, ".", all[i])
		dir.close()
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", name, err)
		}
	}
	root.whiteouts = false // always merged with the writable layer's
	return root, nil
}

// look takes in what one layer, below those seen before, has at m, whose directory
// there is dir and whose path is path.
func (m *merging) look(ctx context.Context, dir at, path string, marks marks) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.layers++; m.layers == 1 {
		m.implicit = marks.implicit[path]
	}
	m.whiteouts = m.whiteouts || marks.whiteouts[path]
	if m.meta == nil && !marks.implicit[path] {
		meta, err := metaOf(dir)
		if err != nil {
			return err
		}
		m.meta = &meta
	}
	for name, sub := range m.subs {
		if sub.closed {
			continue
		}
		next, err := dir.dir(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case isGone(err): // a whiteout, a file or a link, which hides all below
			sub.closed = true
			continue
		case err != nil:
			return err
		}
		err = sub.look(ctx, next, joinName(path, name), marks)
		next.close()
		if err != nil {
			return err
		}
	}
	opaque, err := dir.getxattr(".", opaqueXattr)
	m.closed = m.closed || opaque != nil
	return err
}

// settle finds out, once all layers were looked at, what the seal must have: the
// directories that would be shown wrongly, and those on the way to them.
func (m *merging) settle() bool {
	if m.layers == 0 {
		return false // not there, or no directory
	}
	m.needed = m.implicit && m.meta != nil && !m.meta.isImplied() || m.whiteouts && m.layers == 1
	for _, sub := range m.subs {
		m.needed = sub.settle() || m.needed
	}
	return m.needed
}

// build makes m at path with those directories in it that are needed.
func (m *merging) build(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	dir, err := openAt(path)
	if err != nil {
		return err
	}
	defer dir.close()
	return m.fill(dir)
}

func (m *merging) fill(dir at) error {
	for name, sub := range m.subs {
		if !sub.needed {
			continue
		}
		if err := dir.mkdir(name, 0o755); err != nil {
			return err
		}
		next, err := dir.dir(name)
		if err != nil {
			return err
		}
		err = sub.fill(next)
		next.close()
		if err != nil {
			return err
		}
	}
	if m.meta == nil {
		return (&meta{mode: 0o755, mtime: implied.mtime}).apply(dir)
	}
	return m.meta.apply(dir)
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
