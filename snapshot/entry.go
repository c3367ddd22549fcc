package snapshot

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strings"
)

// How an archive says that a name of a lower layer is gone: OCI image-spec, layer.md,
// "Whiteouts". Other names that begin with metaPrefix are AUFS's own and mean nothing.
const (
	whiteoutPrefix = ".wh."
	metaPrefix     = ".wh..wh."
	opaqueName     = ".wh..wh..opq"
)

// opaqueXattr says to overlayfs that a directory hides those below it.
const opaqueXattr = "trusted.overlay.opaque"

// checkHeader gives the clean name of an entry, "" for one that means nothing.
func checkHeader(hdr *tar.Header) (name string, err error) {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return "", nil // comments, as git archive writes them
	}
	if name, err = cleanName(hdr.Name); err != nil {
		return "", err
	}
	if hdr.Uid < 0 || int64(hdr.Uid) >= math.MaxUint32 || hdr.Gid < 0 || int64(hdr.Gid) >= math.MaxUint32 {
		return "", fmt.Errorf("owner %d:%d: %w", hdr.Uid, hdr.Gid, ErrCorrupt) // 2^32-1 means "leave it" to chown
	}
	_, base := splitName(name)
	if first, _, _ := strings.Cut(name, "/"); strings.HasPrefix(first, metaPrefix) && first != opaqueName {
		return "", nil
	}
	if strings.HasPrefix(base, metaPrefix) && base != opaqueName {
		return "", nil
	}
	return name, nil
}

// checkLinkTarget refuses what no symbolic link can have.
func checkLinkTarget(hdr *tar.Header) error {
	if t := hdr.Linkname; t == "" || len(t) > maxPath || strings.IndexByte(t, 0) >= 0 {
		return fmt.Errorf("symbolic link to %.80q: %w", t, ErrCorrupt)
	}
	return nil
}

// entry unpacks one entry of the archive.
func (u *unpacker) entry(hdr *tar.Header, body io.Reader) error {
	name, err := checkHeader(hdr)
	if err != nil || name == "" {
		return err
	}
	parentName, base := splitName(name)
	dir, parentPath, err := u.parent(parentName)
	if err != nil {
		return err
	}
	e := target{unpacker: u, hdr: hdr, dir: dir, name: base, path: joinName(parentPath, base)}
	if u.made != nil {
		return e.merge(body)
	}
	return e.add(body)
}

// add unpacks the entry into a layer of its own.
func (e target) add(body io.Reader) error {
	switch {
	case e.name == ".":
		return e.rootDir()
	case e.name == opaqueName:
		parentPath, _ := splitName(e.path)
		return e.opaque(e.dir, ".", parentPath)
	case strings.HasPrefix(e.name, whiteoutPrefix):
		return e.whiteout(strings.TrimPrefix(e.name, whiteoutPrefix))
	}
	return e.place(body)
}

// A target is where one entry goes.
type target struct {
	*unpacker
	hdr  *tar.Header
	dir  at
	name string // in dir
	path string // from the layer's root, without links
}

// rootDir handles an entry for the layer's root itself.
func (e target) rootDir() error {
	if e.hdr.Typeflag != tar.TypeDir {
		return fmt.Errorf("the root is no directory: %w", ErrCorrupt)
	}
	e.path = "."
	return e.setDir(e.root, ".")
}

// place makes the entry's file, in place of whatever had its name but a directory that
// it merges with.
func (e target) place(body io.Reader) error {
	switch e.hdr.Typeflag {
	case tar.TypeDir:
		return e.makeDir()
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return e.makeFile(body)
	case tar.TypeLink:
		return e.makeLink()
	case tar.TypeSymlink:
		if err := checkLinkTarget(e.hdr); err != nil {
			return err
		}
		if err := e.replacing(func() error { return e.dir.symlink(e.hdr.Linkname, e.name) }); err != nil {
			return err
		}
		return e.settle()
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return e.makeSpecial()
	}
	return fmt.Errorf("unknown type %q: %w", e.hdr.Typeflag, ErrCorrupt)
}

// replacing runs create, and once more after clearing the name if it was taken.
func (e target) replacing(create func() error) error {
	err := create()
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := e.clear(); err != nil {
		return err
	}
	return create()
}

// clear removes what has the entry's name.
func (e target) clear() error {
	have, err := e.dir.stat(e.name)
	if err != nil {
		return err
	}
	if !have.isDir() {
		return e.dir.unlink(e.name)
	}
	delete(e.dirs, e.path)
	return removeTree(e.ctx, e.dir, e.name, nil)
}

func (e target) makeDir() error {
	have, err := e.dir.stat(e.name)
	switch {
	case err == nil && have.isDir():
	case err == nil, errors.Is(err, fs.ErrNotExist):
		if err := e.newDir(e.dir, e.name, e.path, 0o700, implied); err != nil {
			return err
		}
	default:
		return err
	}
	sub, err := e.dir.dir(e.name)
	if err != nil {
		return err
	}
	defer sub.close()
	return e.setDir(sub, ".")
}

// newDir makes the directory name in dir, in place of whatever is there. Where a
// whiteout was, the new directory hides the lower one.
func (u *unpacker) newDir(dir at, name, path string, mode uint32, info dirInfo) error {
	have, err := dir.stat(name)
	switch {
	case err == nil:
		if err := dir.unlink(name); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := dir.mkdir(name, mode); err != nil {
		return err
	}
	u.dirs[path] = info
	u.note(path)
	if have.isWhiteout() {
		return u.opaque(dir, name, path)
	}
	return nil
}

// setDir gives the directory name in dir the entry's owner and mode now, the rest when
// all is unpacked.
func (e target) setDir(dir at, name string) error {
	xattrs, err := xattrsOf(e.hdr)
	if err != nil {
		return err
	}
	e.dirs[e.path] = dirInfo{mtime: e.hdr.ModTime, xattrs: xattrs}
	if err := dir.chown(name, uint32(e.hdr.Uid), uint32(e.hdr.Gid)); err != nil {
		return err
	}
	return dir.chmod(name, e.mode())
}

func (e target) mode() uint32 { return uint32(e.hdr.Mode) & 0o7777 }

// makeLink gives a file of this layer a second name.
func (e target) makeLink() error {
	name, err := cleanName(e.hdr.Linkname)
	if err != nil {
		return fmt.Errorf("hard link: %w", err)
	}
	parentName, base := splitName(name)
	from, _, err := e.find(parentName, false)
	if err != nil {
		return fmt.Errorf("hard link to %.200q: %w", e.hdr.Linkname, err)
	}
	defer from.close()
	old, err := from.stat(base)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("hard link to %.200q: not in the layer: %w", e.hdr.Linkname, ErrCorrupt)
	}
	if err != nil {
		return err
	}
	if old.isDir() {
		return fmt.Errorf("hard link to %.200q: a directory: %w", e.hdr.Linkname, ErrCorrupt)
	}
	if have, err := e.dir.stat(e.name); err == nil && have.ino == old.ino && have.dev == old.dev {
		return nil // so it is already
	}
	err = e.replacing(func() error { return from.link(base, e.dir, e.name) })
	if errors.Is(err, fs.ErrNotExist) { // its own place had to be cleared of it
		return fmt.Errorf("hard link to %.200q below itself: %w", e.hdr.Linkname, ErrCorrupt)
	}
	return err
}

// makeSpecial makes a device or FIFO.
func (e target) makeSpecial() error {
	mode, dev := uint32(kindFifo), uint64(0)
	if e.hdr.Typeflag != tar.TypeFifo {
		mode = kindChar
		if e.hdr.Typeflag == tar.TypeBlock {
			mode = kindBlock
		}
		var ok bool
		if dev, ok = device(e.hdr.Devmajor, e.hdr.Devminor); !ok {
			return fmt.Errorf("device %d:%d: %w", e.hdr.Devmajor, e.hdr.Devminor, ErrCorrupt)
		}
	}
	if mode == kindChar && dev == 0 {
		e.noteWhiteout() // the device that means one
	}
	if err := e.replacing(func() error { return e.dir.mknod(e.name, mode|0o600, dev) }); err != nil {
		return err
	}
	return e.settle()
}

// makeFile makes a regular file.
func (e target) makeFile(body io.Reader) error {
	var f *os.File
	err := e.replacing(func() (err error) {
		f, err = e.dir.create(e.name)
		return err
	})
	if err != nil {
		return err
	}
	err = copySparse(e.ctx, f, body, e.hdr.Size, e.buf)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("cut short: %w: %w", ErrCorrupt, err)
		}
		return err
	}
	return e.settle()
}

// settle gives the new file, of any kind but a directory, its metadata.
func (e target) settle() error {
	xattrs, err := xattrsOf(e.hdr)
	if err != nil {
		return err
	}
	m := meta{e.hdr.Typeflag == tar.TypeSymlink, e.mode(), uint32(e.hdr.Uid), uint32(e.hdr.Gid), e.hdr.ModTime, xattrs}
	return m.apply(e.dir, e.name)
}

// whiteout records that name, in the layers below, is gone. What this layer itself has
// under that name stays (layer.md: a whiteout hides only lower layers), but a directory
// no longer shows the lower one through.
func (e target) whiteout(name string) error {
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("whiteout of %q: %w", name, ErrMalicious)
	}
	have, err := e.dir.stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.noteWhiteout()
		return e.dir.mknod(name, kindChar, 0)
	case err != nil:
		return err
	case have.isDir():
		parent, _ := splitName(e.path)
		return e.opaque(e.dir, name, joinName(parent, name))
	}
	return nil
}

// noteWhiteout notes that there is one beside the entry.
func (e target) noteWhiteout() {
	parent, _ := splitName(e.path)
	e.whiteouts[parent] = true
}

// opaque makes the directory name in dir, at path in the layer, hide the lower ones.
// overlayfs does not heed the mark on a layer's root, so that is noted.
func (u *unpacker) opaque(dir at, name, path string) error {
	if path == "." {
		u.opaqueRoot = true
		return nil
	}
	return dir.setxattr(name, opaqueXattr, []byte("y"))
}
