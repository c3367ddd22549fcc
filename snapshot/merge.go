package snapshot

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/berthd/berth/snapshot/durable"
	"github.com/berthd/berth/snapshot/mountpoint"
)

// Unpacking a layer onto those below it, where somebody else keeps snapshots and says what
// to mount. What unpack.go says holds, with these differences: what an archive says is gone
// is removed, directories that it does not list stay as they are, and the links of lower
// layers are seen.

// Apply unpacks the uncompressed tar stream r onto what mounts, which are writable, show:
// the layers below it. It reads r to its end, calls verify, whose error it returns wrapped,
// and waits until all is on disk. What is there after an error is for the caller to throw
// away. The mounts are seen by nobody else, and are gone when it returns, or when this
// process ends; scratch is a directory to mount at, of which many may make use at once.
// Errors are AddLayer's.
func Apply(ctx context.Context, mounts []Mount, scratch string, r io.Reader, verify func() error, opts ...Option) (err error) {
	limits := settingsOf(opts).Limits
	var root at
	err = mountpoint.InOwnNamespace(func() error {
		if err := MountAll(mounts, scratch); err != nil {
			return err
		}
		root, err = cloneTree(scratch) // stays when this thread's mounts go
		return err
	})
	if err != nil {
		return err
	}
	defer root.close()
	u := newUnpacker(ctx, root, limits)
	u.made, u.thinned = map[string]bool{}, map[string]bool{}
	if _, err := u.run(r); err != nil {
		return err
	}
	if verify != nil {
		if err := verify(); err != nil {
			return fmt.Errorf("verify: %w", err)
		}
	}
	last := parseMount(mounts[len(mounts)-1])
	if last.Type == "overlay" {
		if upper, ok := last.setting("upperdir"); ok { // the layers below are on disk
			return durable.SyncTree(ctx, upper)
		}
	}
	if last.isBind() { // who keeps folders has copied the layers below, and may not have waited for that
		return durable.SyncTree(ctx, root.procPath()+"/.")
	}
	return durable.SyncFiles(ctx, root.procPath()+"/.", u.changed())
}

// changed lists the paths of what an archive that was merged has made or changed, the
// deepest first: a file system's own snapshot shares the layers below, which are on disk. Some may be gone by now.
func (u *unpacker) changed() []string {
	paths := map[string]bool{".": true}
	maps.Copy(paths, u.made)
	maps.Copy(paths, u.thinned)
	return slices.SortedFunc(maps.Keys(paths), func(a, b string) int { return strings.Compare(b, a) })
}

// note remembers that the archive has something at path, of an archive that is merged.
func (u *unpacker) note(path string) {
	for u.made != nil && path != "." && !u.made[path] {
		u.made[path] = true
		path, _ = splitName(path)
	}
}

// merge unpacks the entry onto what the layers below have.
func (e target) merge(body io.Reader) error {
	parent, _ := splitName(e.path)
	gone, whiteout := strings.CutPrefix(e.name, whiteoutPrefix)
	switch {
	case e.name == opaqueName:
		return e.prune(parent)
	case whiteout && (gone == "" || gone == "." || gone == ".."):
		return fmt.Errorf("whiteout of %q: %w", gone, ErrMalicious)
	case whiteout:
		return e.remove(e.dir, gone, joinName(parent, gone))
	case e.hdr.Typeflag == tar.TypeChar && e.hdr.Devmajor == 0 && e.hdr.Devminor == 0: // the device that means one
		return e.remove(e.dir, e.name, e.path)
	}
	if err := e.add(body); err != nil {
		return err
	}
	e.note(e.path)
	return nil
}

// remove takes away what the layers below have as name in dir, at path. What the archive
// itself has there stays.
func (u *unpacker) remove(dir at, name, path string) error {
	have, err := dir.stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !u.made[path]:
		parent, _ := splitName(path)
		u.thinned[parent] = true
		return removeTree(u.ctx, dir, name, nil)
	case have.isDir():
		return u.prune(path)
	}
	return nil
}

// prune takes away what the layers below have in the directory at path.
func (u *unpacker) prune(path string) error {
	list, err := u.root.list(path)
	if err != nil {
		return err
	}
	defer list.Close()
	var found []string
	if err := names(u.ctx, list, func(name string) error {
		found = append(found, name)
		return nil
	}); err != nil {
		return err
	}
	for _, name := range found {
		if err := u.remove(at(list.Fd()), name, joinName(path, name)); err != nil {
			return err
		}
	}
	return nil
}
