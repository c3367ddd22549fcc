package erofs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// errDamaged says that something is not as Write writes it.
var errDamaged = errors.New("not as it was written")

// maxDepth bounds how deep a tree is, in directories.
const maxDepth = 2048

// Read reads the tree of a file system that Write has written: image is all of it. Names of
// one file are one Node. What was damaged is an error, as far as it shows: who cannot trust
// the file compares its digest first.
//
// It goes from inode to inode. A reader for all that EROFS can be, by paths, took seven
// times as long (BenchmarkRead), and a pull's answer waits for it.
func Read(image []byte) (*Node, error) {
	if len(image) < superOffset+superSize || binary.LittleEndian.Uint32(image[superOffset:]) != magic {
		return nil, fmt.Errorf("super block: %w", errDamaged)
	}
	super := image[superOffset:]
	t := reader{image: image, nodes: make(map[uint64]*Node)}
	root, err := t.node(uint64(binary.LittleEndian.Uint16(super[14:])))
	if err == nil && !root.IsDir() {
		err = fmt.Errorf("the root is no directory: %o: %w", root.Mode, errDamaged)
	}
	return root, err
}

// A reader reads one tree.
type reader struct {
	image []byte
	nodes map[uint64]*Node // directories, and what has several names, by number
	depth int
}

// slice is size bytes from pos on.
func (t *reader) slice(pos, size uint64) ([]byte, error) {
	if end := uint64(len(t.image)); pos > end || size > end-pos {
		return nil, fmt.Errorf("%d bytes at %d: %w", size, pos, errDamaged)
	}
	return t.image[pos : pos+size], nil
}

// node reads the file with that number, and what is below it.
func (t *reader) node(nid uint64) (*Node, error) {
	if have := t.nodes[nid]; have != nil {
		if have.IsDir() {
			return nil, fmt.Errorf("a directory with two names: %w", errDamaged)
		}
		return have, nil
	}
	if nid > uint64(len(t.image))/slot {
		return nil, fmt.Errorf("inode %d: %w", nid, errDamaged)
	}
	in, err := t.inode(nid * slot)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", nid, err)
	}
	if in.links > 1 || in.node.IsDir() {
		t.nodes[nid] = in.node
	}
	switch in.node.Mode & KindMask {
	case KindDir:
		err = t.children(in)
	case KindSymlink:
		var target []byte
		target, err = t.body(in)
		in.node.Target = string(target)
	case KindRegular:
		err = t.extent(in)
	}
	return in.node, err
}

// A readInode is an inode, and where what follows it begins.
type readInode struct {
	node  *Node
	way   int
	size  uint64
	u     uint32 // the block, or what a chunk is like
	links uint32
	next  uint64
}

func (t *reader) inode(pos uint64) (in readInode, err error) {
	b, err := t.slice(pos, inodeSize)
	if err != nil {
		return in, err
	}
	le := binary.LittleEndian
	format, xattrs, mode := le.Uint16(b), uint64(le.Uint16(b[2:])), le.Uint16(b[4:])
	if format&1 == 0 || kinds[uint32(mode)&KindMask] == 0 {
		return in, fmt.Errorf("format %x, mode %o: %w", format, mode, errDamaged)
	}
	in.node = &Node{
		Mode: uint32(mode), UID: le.Uint32(b[24:]), GID: le.Uint32(b[28:]),
		Mtime: time.Unix(int64(le.Uint64(b[32:])), int64(le.Uint32(b[40:]))),
	}
	in.way, in.size, in.u, in.links, in.next = int(format>>1), le.Uint64(b[8:]), le.Uint32(b[16:]), le.Uint32(b[44:]), pos+inodeSize
	if kind := in.node.Mode & KindMask; kind == KindChar || kind == KindBlock {
		in.node.Rdev = in.u
	}
	if xattrs > 0 {
		b, err = t.slice(in.next, xattrHeader+(xattrs-1)*xattrEntry)
		if err == nil {
			in.node.Xattrs, err = decodeXattrs(b)
		}
		in.next += uint64(len(b))
	}
	return in, err
}

// body is the bytes of a directory or symbolic link.
func (t *reader) body(in readInode) ([]byte, error) {
	switch in.way {
	case flatInline:
		return t.slice(in.next, in.size)
	case flatPlain:
		return t.slice(uint64(in.u)*BlockSize, in.size)
	}
	return nil, fmt.Errorf("layout %d: %w", in.way, errDamaged)
}

// extent finds where a regular file's bytes are: all in one place.
func (t *reader) extent(in readInode) error {
	if in.node.Size = in.size; in.size == 0 {
		return nil
	}
	b, err := t.slice(roundUp(in.next, chunkSize), chunkSize)
	if err != nil {
		return err
	}
	if in.way != chunkBased {
		return fmt.Errorf("layout %d of a file: %w", in.way, errDamaged)
	}
	in.node.Data = Extent{Device: binary.LittleEndian.Uint16(b[2:]), Block: binary.LittleEndian.Uint32(b[4:])}
	return nil
}

// children reads a directory, block by block.
func (t *reader) children(in readInode) error {
	if t.depth++; t.depth > maxDepth {
		return ErrTooLarge
	}
	defer func() { t.depth-- }()
	all, err := t.body(in)
	if err != nil {
		return err
	}
	in.node.Children = make(map[string]*Node)
	for block := range slices.Chunk(all, BlockSize) {
		if err := t.names(block, in.node); err != nil {
			return err
		}
	}
	return nil
}

// names reads a block of a directory: entries, and then their names.
func (t *reader) names(block []byte, dir *Node) error {
	le := binary.LittleEndian
	if len(block) < direntSize {
		return fmt.Errorf("a directory: %w", errDamaged)
	}
	first := int(le.Uint16(block[8:]))
	if first%direntSize != 0 || first == 0 || first > len(block) {
		return fmt.Errorf("a directory: %w", errDamaged)
	}
	for at := 0; at < first; at += direntSize {
		begin, end := int(le.Uint16(block[at+8:])), len(block)
		if at+direntSize < first {
			end = int(le.Uint16(block[at+direntSize+8:]))
		}
		if begin > end || end > len(block) {
			return fmt.Errorf("a directory: %w", errDamaged)
		}
		name := strings.TrimRight(string(block[begin:end]), "\x00") // behind a block's last
		if name == "." || name == ".." {
			continue
		}
		if name == "" || dir.Children[name] != nil {
			return fmt.Errorf("a directory has %q twice: %w", name, errDamaged)
		}
		child, err := t.node(le.Uint64(block[at:]))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		dir.Children[name] = child
	}
	return nil
}
