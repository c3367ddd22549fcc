package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/berthd/berth/snapshot/durable"
)

// ReadRootFile reads the file at path as a process with root directory root would find
// it: links are followed inside root and nowhere else, /proc links not at all. It is for
// /etc/passwd and /etc/group of a container's tree, which is hostile: only a regular file
// is opened at all (ErrNotRegular), and one of more than limit bytes is ErrTooLarge
// (CVE-2026-47262). An absent file is fs.ErrNotExist.
func ReadRootFile(root, path string, limit int64) ([]byte, error) {
	data, err := readRootFile(root, path, limit)
	if err != nil {
		return nil, fmt.Errorf("%s in %s: %w", path, root, err)
	}
	return data, nil
}

func readRootFile(root, path string, limit int64) ([]byte, error) {
	dir, err := openAt(root)
	if err != nil {
		return nil, err
	}
	defer dir.close()
	found, a, err := lookInRoot(dir, path)
	if err != nil {
		return nil, err
	}
	defer found.close()
	if !a.isRegular() {
		return nil, ErrNotRegular
	}
	f, err := found.reopen()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1)) // its size may be a lie by now
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("more than %d bytes: %w", limit, ErrTooLarge)
	}
	return data, nil
}

// BindFromRoot mounts what is at path in the tree at root, a directory or a regular file,
// at target, which it makes. It is for the sub path of an image volume: path is resolved as
// ReadRootFile does, and what was found is mounted and not looked up again, so that no
// link can lead elsewhere meanwhile (the class of CVE-2017-1002101). A path that is not
// there is fs.ErrNotExist; one that leads to a device, a FIFO or a socket ErrNotRegular.
// Unmount undoes it.
func BindFromRoot(root, path, target string) error {
	if err := bindFromRoot(root, path, target); err != nil {
		return fmt.Errorf("%.300q in %s: %w", path, root, err)
	}
	return nil
}

func bindFromRoot(root, path, target string) error {
	dir, err := openAt(root)
	if err != nil {
		return err
	}
	defer dir.close()
	found, a, err := lookInRoot(dir, path)
	if err != nil {
		return err
	}
	defer found.close()
	switch {
	case a.isDir():
		err = os.Mkdir(target, 0o755)
	case a.isRegular():
		err = durable.Replace(target, nil, 0o644)
	default:
		return ErrNotRegular
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return found.bindAt(target)
}

// lookInRoot finds path in root without opening it. The caller closes what it returns.
func lookInRoot(root at, path string) (at, attr, error) {
	if path == "" {
		return -1, attr{}, fmt.Errorf("empty path: %w", ErrInvalid)
	}
	found, err := root.inRoot(path)
	if err != nil {
		return -1, attr{}, err
	}
	a, err := found.self()
	if err != nil {
		found.close()
		return -1, attr{}, err
	}
	return found, a, nil
}

// CopyTree copies what the directory path of the tree at root holds into the directory
// dest of the host, with owners, modes, times and extended attributes; dest itself
// becomes like the directory at path, and is made if it is absent. It is for the content
// of an image's VOLUME: path comes from the image and is resolved as ReadRootFile does
// (CVE-2022-23648). When there is nothing at path, or no directory, nothing is made.
//
// dest must be empty or what an earlier call has left half-done. The tree must not be in
// use by a container yet.
func CopyTree(ctx context.Context, root, path, dest string) error {
	if err := copyTree(ctx, root, path, dest); err != nil {
		return fmt.Errorf("copy %s in %s to %s: %w", path, root, dest, err)
	}
	return nil
}

func copyTree(ctx context.Context, root, path, dest string) error {
	dir, err := openAt(root)
	if err != nil {
		return err
	}
	defer dir.close()
	from, a, err := lookInRoot(dir, path)
	if isGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer from.close()
	if !a.isDir() {
		return nil
	}
	if err := os.Mkdir(dest, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	to, err := openAt(dest)
	if err != nil {
		return err
	}
	defer to.close()
	c := copier{ctx: ctx, top: to, linked: make(map[[2]uint64]string), buf: make([]byte, copyChunk)}
	return c.dir(from, to, ".", 0)
}

type copier struct {
	ctx    context.Context
	top    at
	linked map[[2]uint64]string // where the first name of a file with several went
	buf    []byte
}

// dir copies the names of from into to, which lies at path, and then to's metadata.
func (c *copier) dir(from, to at, path string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%.80q is more than %d directories deep: %w", path, maxDepth, ErrTooLarge)
	}
	list, err := from.list(".")
	if err != nil {
		return err
	}
	defer list.Close()
	err = names(c.ctx, list, func(name string) error {
		if err := c.one(from, to, name, joinName(path, name), depth); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	m, err := metaOf(from)
	if err != nil {
		return err
	}
	return m.apply(to, ".")
}

func (c *copier) one(from, to at, name, path string, depth int) error {
	a, err := from.stat(name)
	if err != nil {
		return err
	}
	if a.isDir() {
		return c.sub(from, to, name, path, depth)
	}
	if err := removeTree(c.ctx, to, name, nil); err != nil { // of an earlier call
		return err
	}
	if a.nlink > 1 {
		key := [2]uint64{a.dev, a.ino}
		if first, ok := c.linked[key]; ok {
			return c.link(first, to, name)
		}
		c.linked[key] = path
	}
	if err := c.create(from, to, name, a); err != nil {
		return err
	}
	if err := to.chown(name, a.uid, a.gid); err != nil {
		return err
	}
	if !a.isSymlink() {
		if err := to.chmod(name, a.perm()); err != nil {
			return err
		}
	}
	xattrs, err := readXattrs(from, name)
	if err != nil {
		return err
	}
	if err := setXattrs(to, name, xattrs); err != nil {
		return err
	}
	return to.chtimes(name, a.mtime)
}

func (c *copier) sub(from, to at, name, path string, depth int) error {
	if err := to.mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	next, err := from.dir(name)
	if err != nil {
		return err
	}
	defer next.close()
	into, err := to.dir(name)
	if err != nil {
		return err
	}
	defer into.close()
	return c.dir(next, into, path, depth+1)
}

// link gives the file at path first a name in to.
func (c *copier) link(first string, to at, name string) error {
	parent, base := splitName(first)
	dir, err := c.top.dir(parent)
	if err != nil {
		return err
	}
	defer dir.close()
	return dir.link(base, to, name)
}

// create makes the file name of from, without metadata, in to.
func (c *copier) create(from, to at, name string, a attr) error {
	switch {
	case a.isSymlink():
		target, err := from.readlink(name)
		if err != nil {
			return err
		}
		return to.symlink(target, name)
	case !a.isRegular():
		return to.mknod(name, a.kind()|0o600, a.rdev)
	}
	in, err := from.open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := to.create(name)
	if err != nil {
		return err
	}
	err = copySparse(c.ctx, out, in, a.size, c.buf)
	return errors.Join(err, out.Close())
}
