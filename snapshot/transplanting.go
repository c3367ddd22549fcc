package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/berthd/berth/snapshot/erofs"
)

// A transplanting makes a directory tree of a tree in memory, whose files' bytes are in
// other files. Both are ours: names were cleaned when the layers were unpacked, and there
// are no links in a path that it makes.
type transplanting struct {
	ctx     context.Context
	root    at
	devices []*os.File
	placed  map[*erofs.Node]string // files with several names: the first one, from the root
	copies  bool                   // the file system cannot share bytes
	buf     []byte
}

// transplant makes the tree root in the empty directory at path. What the file system
// cannot have of a file's attributes is left out.
func transplant(ctx context.Context, root *erofs.Node, devices []string, path string) error {
	dir, err := openAt(path)
	if err != nil {
		return err
	}
	defer dir.close()
	t := &transplanting{ctx: ctx, root: dir, placed: map[*erofs.Node]string{}, buf: make([]byte, copyChunk)}
	for _, name := range devices {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w", name, ErrNotFound)
		}
		if err != nil {
			return err
		}
		defer f.Close()
		t.devices = append(t.devices, f)
	}
	return t.fill(dir, ".", root)
}

// fill puts what is in the directory n into the open one, at path, and settles it then.
func (t *transplanting) fill(dir at, path string, n *erofs.Node) error {
	for name, child := range n.Children {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		if err := t.place(dir, path, name, child); err != nil {
			return err
		}
	}
	return metaOfNode(n).apply(dir, ".")
}

// place makes n as name in the directory at path.
func (t *transplanting) place(dir at, path, name string, n *erofs.Node) error {
	whole := joinName(path, name)
	if first := t.placed[n]; first != "" {
		return t.link(first, dir, name)
	}
	if n.IsDir() {
		if err := dir.mkdir(name, 0o700); err != nil {
			return err
		}
		sub, err := dir.dir(name)
		if err != nil {
			return err
		}
		defer sub.close()
		return t.fill(sub, whole, n)
	}
	t.placed[n] = whole
	var err error
	switch n.Mode & erofs.KindMask {
	case erofs.KindRegular:
		err = t.file(dir, name, n)
	case erofs.KindSymlink:
		err = dir.symlink(n.Target, name)
	default:
		major, minor := erofs.Numbers(n.Rdev)
		number, _ := device(int64(major), int64(minor))
		err = dir.mknod(name, n.Mode&erofs.KindMask|0o600, number)
	}
	if err != nil {
		return err
	}
	return metaOfNode(n).apply(dir, name)
}

// link gives the file at the path first another name.
func (t *transplanting) link(first string, dir at, name string) error {
	parent, base := splitName(first)
	from, err := t.root.dir(parent)
	if err != nil {
		return err
	}
	defer from.close()
	return from.link(base, dir, name)
}

// file makes a regular file.
func (t *transplanting) file(dir at, name string, n *erofs.Node) error {
	f, err := dir.create(name)
	if err != nil {
		return err
	}
	err = t.fillFile(f, n)
	return errors.Join(err, f.Close())
}

func (t *transplanting) fillFile(f *os.File, n *erofs.Node) error {
	if n.Size == 0 {
		return nil
	}
	if n.Data.Device == 0 || int(n.Data.Device) > len(t.devices) {
		return fmt.Errorf("bytes in device %d of %d: %w", n.Data.Device, len(t.devices), ErrDamaged)
	}
	from, offset, size := t.devices[n.Data.Device-1], int64(n.Data.Block)*erofs.BlockSize, int64(n.Size)
	if !t.copies {
		blocks := (size + erofs.BlockSize - 1) / erofs.BlockSize
		if err := clone(f, from, offset, blocks*erofs.BlockSize); err == nil {
			return f.Truncate(size)
		}
		t.copies = true // across file systems, larger blocks, no reflinks; a bad disk shows again below
	}
	err := copySparse(t.ctx, f, io.NewSectionReader(from, offset, size), size, t.buf)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s: %w: %w", from.Name(), ErrDamaged, err)
	}
	return err
}

// metaOfNode is what n says beside its contents.
func metaOfNode(n *erofs.Node) meta {
	xattrs := make(map[string][]byte, len(n.Xattrs))
	for key, value := range n.Xattrs {
		xattrs[key] = []byte(value)
	}
	return meta{n.Mode&erofs.KindMask == erofs.KindSymlink, n.Mode & 0o7777, n.UID, n.GID, n.Mtime, xattrs}
}
