package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/snapshot/durable"
)

// directories is the format that keeps a layer as a directory. An image's layers are
// lower directories one on the other. On disk:
//
//	layers/…/fs          the layer
//	layers/…/implicit, whiteouts   see merging
//	seals/…/fs           where the chain needs one
type directories struct{ *overlay }

func (o directories) start(context.Context) error         { return nil }
func (o directories) close(context.Context, string) error { return nil }
func (o directories) lost(context.Context, string) error  { return nil }

// open looks at the layers' records: the directories need no opening.
func (o directories) open(_ context.Context, _ string, chain []digest.Digest) error {
	for _, d := range chain {
		name, err := layerName(d)
		if err != nil {
			return err
		}
		if _, err := o.readLayer(name); err != nil {
			return err
		}
	}
	return nil
}

func (o directories) fill(ctx context.Context, tmp string, r io.Reader) (rec layerRecord, err error) {
	files := filepath.Join(tmp, "fs")
	if err := makeDir(files, 0o755); err != nil {
		return rec, err
	}
	about, err := unpack(ctx, files, r, o.limits)
	if err != nil {
		return rec, err
	}
	rec.OpaqueRoot = about.opaqueRoot
	if rec.Usage, err = measureDir(ctx, files); err != nil {
		return rec, err
	}
	for name, paths := range map[string][]string{"implicit": about.implicit, "whiteouts": about.whiteouts} {
		if err := durable.Replace(filepath.Join(tmp, name), []byte(strings.Join(paths, "\x00")), 0o600); err != nil {
			return rec, err
		}
	}
	return rec, nil
}

func (o directories) seal(ctx context.Context, tmp string, diffIDs []digest.Digest) (rec sealRecord, err error) {
	if rec, err = o.stack(diffIDs); err != nil {
		return rec, err
	}
	merged, err := o.merge(ctx, rec.Layers)
	if err != nil {
		return rec, err
	}
	if rec.Top = merged.settle(); rec.Top {
		err = merged.build(filepath.Join(tmp, "fs"))
	}
	return rec, err
}

func (o directories) lowers(seal string, rec sealRecord) (out []string, err error) {
	if top := o.path("seals", seal, "fs"); rec.Top {
		if !exists(top) {
			return nil, fmt.Errorf("%s is gone: %w", top, ErrDamaged)
		}
		out = append(out, top)
	}
	for _, name := range rec.Layers {
		dir := o.path("layers", name, "fs")
		if !exists(dir) {
			return nil, o.gone(name, dir)
		}
		out = append(out, dir)
	}
	if len(out) == 0 {
		out = append(out, o.path("empty"))
	}
	return out, nil
}

func (o directories) archive(context.Context, string, layerRecord, io.Writer) error {
	return fmt.Errorf("its archive was unpacked into folders and not kept; with snapshot.driver = \"erofs\" it can be made again: %w", ErrUnsupported)
}

// verify compares how many files there are: nothing else is on record.
func (o directories) verify(ctx context.Context, name string, rec layerRecord) error {
	have, err := measureDir(ctx, o.path("layers", name, "fs"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	case err != nil:
		return err
	case have.Inodes != rec.Inodes:
		return fmt.Errorf("%d files, not %d: %w", have.Inodes, rec.Inodes, ErrDamaged)
	}
	return fmt.Errorf("all files are there; the driver overlay keeps no checksums of them: %w", ErrUnsupported)
}

// gone says why a layer's directory is not there.
func (o directories) gone(name, dir string) error {
	if !exists(o.path("layers", name)) {
		return fmt.Errorf("layer %s: %w; pull the image again", name, ErrNotFound)
	}
	return damageOf(name, fmt.Errorf("%s is gone: %w", dir, ErrDamaged))
}

// maxStack is overlayfs's limit on lower directories (OVL_MAX_STACK), less the seal's.
const maxStack = 499

// stack decides which layers of a chain are mounted.
func (o directories) stack(diffIDs []digest.Digest) (rec sealRecord, err error) {
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

func (o directories) readMarks(layer string) (m marks, err error) {
	for name, into := range map[string]*map[string]bool{"implicit": &m.implicit, "whiteouts": &m.whiteouts} {
		data, err := os.ReadFile(o.path("layers", layer, name))
		if errors.Is(err, fs.ErrNotExist) || isBadDisk(err) {
			err = damageOf(layer, fmt.Errorf("%w: %w", ErrDamaged, err))
		}
		if err != nil {
			return m, err
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
func (o directories) merge(ctx context.Context, layers []string) (*merging, error) {
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
