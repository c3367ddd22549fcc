package erofs

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	goerofs "github.com/erofs/go-erofs"
)

// readByLibrary reads the tree of a file system with a reader that somebody else wrote, the
// long way: by its paths.
func readByLibrary(r io.ReaderAt) (*Node, error) {
	devices, err := deviceCount(r)
	if err != nil {
		return nil, err
	}
	img, err := goerofs.Open(r, goerofs.WithExtraDevices(devices...))
	if err != nil {
		return nil, err
	}
	info, err := fs.Stat(img, ".")
	if err != nil {
		return nil, err
	}
	t := libraryReader{img: img, files: map[int64]*Node{}}
	root, err := t.node(".", info)
	if err == nil && !root.IsDir() {
		err = fmt.Errorf("the root is no directory: %o", root.Mode)
	}
	return root, err
}

// deviceCount gives as many devices as the super block says there are. Their bytes are
// not read.
func deviceCount(r io.ReaderAt) ([]io.ReaderAt, error) {
	var n [2]byte
	if _, err := r.ReadAt(n[:], superOffset+devicesAt); err != nil {
		return nil, fmt.Errorf("super block: %w", err)
	}
	devices := make([]io.ReaderAt, binary.LittleEndian.Uint16(n[:]))
	for i := range devices {
		devices[i] = strings.NewReader("")
	}
	return devices, nil
}

// A reader reads one tree.
type libraryReader struct {
	img   fs.FS
	files map[int64]*Node // those with several names, by number
	depth int
}

// node reads a file and what is below it.
func (t *libraryReader) node(name string, info fs.FileInfo) (*Node, error) {
	st, ok := info.Sys().(*goerofs.Stat)
	if !ok {
		return nil, fmt.Errorf("%s: no file of EROFS", name)
	}
	if have := t.files[st.Ino]; have != nil {
		return have, nil
	}
	n := &Node{
		Mode: unixMode(st.Mode), UID: st.UID, GID: st.GID, Rdev: st.Rdev, Xattrs: st.Xattrs,
		Mtime: time.Unix(int64(st.Mtime), int64(st.MtimeNs)),
	}
	var err error
	switch n.Mode & KindMask {
	case KindDir:
		err = t.children(name, n)
	case KindSymlink:
		n.Target, err = fs.ReadLink(t.img, name)
	case KindRegular:
		err = n.ranges(info)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if st.Nlink > 1 && !n.IsDir() {
		t.files[st.Ino] = n
	}
	return n, nil
}

func (t *libraryReader) children(name string, n *Node) error {
	if t.depth++; t.depth > maxDepth {
		return ErrTooLarge
	}
	defer func() { t.depth-- }()
	found, err := fs.ReadDir(t.img, name)
	if err != nil {
		return err
	}
	n.Children = make(map[string]*Node, len(found))
	for _, e := range found {
		info, err := e.Info()
		if err != nil {
			return err
		}
		if n.Children[e.Name()], err = t.node(path.Join(name, e.Name()), info); err != nil {
			return err
		}
	}
	return nil
}

// ranges finds where a regular file's bytes are: all in one place.
func (n *Node) ranges(info fs.FileInfo) error {
	if n.Size = uint64(info.Size()); n.Size == 0 {
		return nil
	}
	has, ok := info.(interface{ DataRange() []goerofs.DataRange })
	if !ok {
		return fmt.Errorf("its data is not to be found")
	}
	end, first := int64(0), true
	for _, r := range has.DataRange() {
		if r.Offset < 0 || r.Offset%BlockSize != 0 && first || !first && (r.Offset != end || r.Device != n.Data.Device) {
			return fmt.Errorf("its data is in several places")
		}
		if first {
			n.Data, first = Extent{Device: r.Device, Block: uint32(r.Offset / BlockSize)}, false
		}
		end = r.Offset + r.Size
	}
	if first {
		return fmt.Errorf("it has no data")
	}
	return nil
}

// unixMode is a mode as st_mode has it.
func unixMode(m fs.FileMode) uint32 {
	out := uint32(m.Perm())
	for _, b := range []struct {
		in  fs.FileMode
		out uint32
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if m&b.in != 0 {
			out |= b.out
		}
	}
	switch {
	case m&fs.ModeDir != 0:
		return out | KindDir
	case m&fs.ModeSymlink != 0:
		return out | KindSymlink
	case m&fs.ModeNamedPipe != 0:
		return out | KindFifo
	case m&fs.ModeSocket != 0:
		return out | KindSocket
	case m&fs.ModeCharDevice != 0:
		return out | KindChar
	case m&fs.ModeDevice != 0:
		return out | KindBlock
	}
	return out | KindRegular
}
