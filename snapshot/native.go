package snapshot

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// native is the driver that needs nothing of the file system under it: no overlays above
// it, no attributes, no devices that mean something. Layers and sealed images are kept as
// blobs keeps them, and never mounted. A root file system is a tree of its own, made of
// them: its files share their bytes with the layers' where the file system can (reflinks:
// XFS, btrfs), and are copies elsewhere. On disk, beside what blobs has:
//
//	roots/<id>/fs   the whole tree
//	trees/<hex>/    the whole tree of a seal, while a container reads it (View)
type native struct{ *blobs }

// treesDir is where the trees are that containers read.
const treesDir = "trees"

// try implements laying.
func (n native) try() error { return nil }

// start takes away the trees that nobody reads any more.
func (n native) start(ctx context.Context) error {
	if err := makeDir(n.path(treesDir), 0o700); err != nil {
		return err
	}
	if err := n.tryVerity(ctx); err != nil {
		return err
	}
	left, err := os.ReadDir(n.path(treesDir))
	if err != nil {
		return err
	}
	for _, e := range left {
		seal, _, _ := strings.Cut(e.Name(), ".")
		if err := n.close(ctx, seal); err != nil {
			return err
		}
	}
	return nil
}

func (n native) lowers(seal string, rec sealRecord) ([]string, error) {
	if err := n.standing(seal, rec); err != nil {
		return nil, err
	}
	return []string{n.path(treesDir, seal)}, nil
}

// open looks at the seal. A tree is made of it when somebody wants one.
func (n native) open(ctx context.Context, seal string, chain []digest.Digest) error {
	_, err := n.sound(ctx, seal, chain)
	return err
}

// close throws the trees away under the lock, and deletes them after: that may take long.
func (n native) close(ctx context.Context, seal string) error {
	label := "tree-" + seal
	err := n.unlessUsed(ctx, seal, func() error {
		for _, tree := range n.trees(seal) {
			if err := n.trash.throw(n.path(treesDir, tree), label); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return n.trash.empty(ctx, label)
}

// trees are the names of a seal's trees: its own, and lost ones.
func (n native) trees(seal string) (out []string) {
	found, _ := os.ReadDir(n.path(treesDir)) // what is not listed now is at the next start
	for _, e := range found {
		if e.Name() == seal || strings.HasPrefix(e.Name(), seal+".") {
			out = append(out, e.Name())
		}
	}
	return out
}

// lost implements format: those who read a tree keep it, and others get a new one.
func (n native) lost(_ context.Context, name string) error {
	found, err := os.ReadDir(n.path(treesDir))
	if err != nil {
		return err
	}
	errs := []error{}
	for _, e := range found {
		if seal := e.Name(); !strings.Contains(seal, ".") && (seal == name || n.standsOn(seal, name)) {
			errs = append(errs, os.Rename(n.path(treesDir, seal), n.lostTree(seal)))
		}
	}
	return errors.Join(errs...)
}

// lostTree is a place for a seal's tree that nobody new is to read.
func (n native) lostTree(seal string) string { return n.path(treesDir, seal+"."+rand.Text()) }

// fillRoot implements laying.
func (n native) fillRoot(ctx context.Context, tmp string, rec *rootRecord, _ []string) (err error) {
	files := filepath.Join(tmp, "fs")
	if err := n.build(ctx, rec.Seal, files); err != nil {
		return err
	}
	rec.Since, err = settled(files)
	return err
}

// build makes the tree of a seal at path.
func (n native) build(ctx context.Context, seal, path string) error {
	rec, err := n.readSeal(seal)
	if err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	return n.buildFrom(ctx, n.path("seals", seal, imageFile), rec, path)
}

// buildFrom makes the tree that the image of a seal describes in the empty directory at path.
func (n native) buildFrom(ctx context.Context, image string, rec sealRecord, path string) error {
	root, _, err := readTree(image, rec.Image)
	if err != nil {
		return err
	}
	var devices []string
	for _, name := range rec.Devices {
		devices = append(devices, n.path("layers", name, dataFile))
	}
	return transplant(ctx, root, devices, path)
}

// settled is when the last of the files of a new tree changed, the root being the last. It
// returns when all that changes from then on is dated later.
func settled(root string) (time.Time, error) {
	dir, err := openAt(root)
	if err != nil {
		return time.Time{}, err
	}
	defer dir.close()
	a, err := dir.stat(".")
	if err != nil {
		return time.Time{}, err
	}
	return a.ctime, afterNow(a.ctime)
}

func (n native) mount(dir string, _ []string, ids IDMap) Mount {
	return Mount{Type: "bind", Source: filepath.Join(dir, "fs"), UserNS: ids.UserNS, Options: []string{"bind", "rw", "suid", "dev", "exec"}}
}

func (n native) view(ctx context.Context, rec rootRecord, lowers []string) (Mount, error) {
	m := viewOf(rec, lowers[0])
	unlock, err := n.mounting.lock(ctx, rec.Seal)
	if err != nil {
		return m, err
	}
	defer unlock()
	if _, err := os.Lstat(lowers[0]); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return m, err
	}
	return m, n.make(ctx, lowers[0], func(tmp string) error {
		// The directory is the tree's own, and is made by whoever fills it.
		if err := os.Remove(tmp); err != nil {
			return err
		}
		return n.build(ctx, rec.Seal, tmp)
	})
}

// viewOf is what to mount to read the tree at path.
func viewOf(rec rootRecord, path string) Mount {
	return Mount{Type: "bind", Source: path, UserNS: rec.IDs.UserNS, Options: []string{"bind", "ro", "nodev", "suid", "exec"}}
}

func (n native) trial(dir string, ids IDMap) (Mount, error) {
	for _, sub := range []string{"fs", "fs/inside"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return Mount{}, err
		}
	}
	return n.mount(dir, nil, ids), nil
}

// usage counts what has changed since the tree was made, and a file that has changed in
// part as a whole, as if it were copied up.
func (n native) usage(ctx context.Context, id string) (Usage, error) {
	rec, err := n.readRoot(id)
	if err != nil {
		return Usage{}, err
	}
	root, err := openAt(n.path("roots", id, "fs"))
	if err != nil {
		return Usage{}, err
	}
	defer root.close()
	return measure(ctx, root, rec.Since)
}
