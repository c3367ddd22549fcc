package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/berthd/berth/snapshot/btrfs"
)

// The trees here may be a container's making: any depth, any number of names, names
// that come and go. Nothing is followed, and neither open files nor stack grow with
// the depth.

// readAtOnce is how many names are read from a directory at a time.
const readAtOnce = 1024

// names calls each for every name in the open directory d.
func names(ctx context.Context, d *os.File, each func(name string) error) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		batch, err := d.Readdirnames(readAtOnce)
		if errors.Is(err, io.EOF) || errors.Is(err, fs.ErrNotExist) { // ErrNotExist: removed meanwhile
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range batch {
			if err := each(name); err != nil {
				return err
			}
		}
	}
}

// An anchor is a directory kept open because others are still to be opened from it.
type anchor struct {
	dir  at
	uses int
}

func (a *anchor) release() {
	if a.uses--; a.uses == 0 {
		a.dir.close()
	}
}

// A branch is a directory still to be read, by its path from an anchor.
type branch struct {
	from *anchor
	path string
}

// maxBranch is how long a branch's path may get before a new anchor is set.
const maxBranch = 3000

// measure adds up what is in the tree at root, root itself and what has changed after
// since, which is everything when it is zero. The tree may change meanwhile.
func measure(ctx context.Context, root at, since time.Time) (Usage, error) {
	m := meter{seen: make(map[[2]uint64]struct{})}
	own, err := root.stat(".")
	if err != nil {
		return Usage{}, err
	}
	m.add(own)
	m.since = since
	top, err := root.dup()
	if err != nil {
		return Usage{}, err
	}
	m.todo = []branch{{&anchor{dir: top, uses: 1}, "."}}
	for len(m.todo) > 0 {
		b := m.todo[len(m.todo)-1]
		m.todo = m.todo[:len(m.todo)-1]
		err := m.read(ctx, b)
		b.from.release()
		if err != nil {
			for _, b := range m.todo {
				b.from.release()
			}
			return Usage{}, err
		}
	}
	return m.Usage, nil
}

type meter struct {
	Usage
	since time.Time
	seen  map[[2]uint64]struct{} // files with several names
	todo  []branch
}

func (m *meter) add(a attr) {
	if !a.ctime.After(m.since) {
		return
	}
	if a.nlink > 1 && !a.isDir() {
		key := [2]uint64{a.dev, a.ino}
		if _, ok := m.seen[key]; ok {
			return
		}
		m.seen[key] = struct{}{}
	}
	m.Inodes++
	m.Bytes += uint64(a.blocks) * 512
}

func (m *meter) read(ctx context.Context, b branch) error {
	list, err := b.from.dir.list(b.path)
	if isGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer list.Close()
	d, from, prefix := at(list.Fd()), b.from, b.path
	if len(prefix) > maxBranch {
		own, err := d.dup()
		if err != nil {
			return err
		}
		from, prefix = &anchor{dir: own, uses: 1}, "."
		defer from.release()
	}
	return names(ctx, list, func(name string) error {
		a, err := d.stat(name)
		if isGone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		m.add(a)
		if a.isDir() {
			from.uses++
			m.todo = append(m.todo, branch{from, joinName(prefix, name)})
		}
		return nil
	})
}

// removeSubvolume removes the directory name in d at once, if it is a subvolume of btrfs
// and has no other ones in it.
func (d at) removeSubvolume(name string) (done bool, err error) {
	a, err := d.stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil || !a.isDir() || !btrfs.IsRoot(int(d), a.ino) {
		return false, err
	}
	switch err = btrfs.Destroy(int(d), name); {
	case err == nil, errors.Is(err, fs.ErrNotExist):
		return true, nil
	case isNotEmpty(err):
		return false, nil
	}
	return false, err
}

// removeTree removes the file or tree name in dir; an absent one is fine. Directories
// that lie deeper than maxRemoveDepth are handed to flatten, which moves them elsewhere
// for its caller to remove in turn; without flatten the tree is known to be no deeper
// than maxDepth.
func removeTree(ctx context.Context, dir at, name string, flatten func(at, string) error) error {
	return remover{ctx, flatten}.remove(dir, name, 0)
}

// maxRemoveDepth bounds the open files and the stack of one removal.
const maxRemoveDepth = 128

type remover struct {
	ctx     context.Context
	flatten func(at, string) error
}

func (r remover) remove(dir at, name string, depth int) error {
	err := dir.unlink(name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !isDirectory(err) {
		return err
	}
	if done, err := dir.removeSubvolume(name); done || err != nil {
		return err
	}
	if depth > maxRemoveDepth && r.flatten != nil {
		return r.flatten(dir, name)
	}
	list, err := dir.list(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // somebody else removes it too
	}
	if err != nil {
		return err
	}
	defer list.Close()
	// Names may be passed over while others are removed, so look again.
	for range 16 {
		if err := names(r.ctx, list, func(sub string) error { return r.remove(at(list.Fd()), sub, depth+1) }); err != nil {
			return err
		}
		err := dir.rmdir(name)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !isNotEmpty(err) {
			return err
		}
		if _, err := list.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	return fmt.Errorf("remove %q: names keep appearing in it", name)
}
