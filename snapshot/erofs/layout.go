package erofs

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Sizes of the format's structures, in bytes.
const (
	superOffset = 1024
	superSize   = 128
	deviceSize  = 128
	inodeSize   = 64
	direntSize  = 12
	chunkSize   = 8
	slot        = 32 // inodes are numbered in units of it

	xattrHeader = 12
	xattrEntry  = 4
)

// Ways to store a file's bytes (bits 1 to 3 of an inode's format).
const (
	flatPlain  = 0
	flatInline = 2
	chunkBased = 4
)

// A placed is a Node with its place in the file system.
type placed struct {
	*Node
	nid    uint64
	links  uint32
	parent *placed // of a directory
	names  []entry // of a directory, with . and .., sorted
	xattrs []byte
	body   uint64 // bytes of a directory or symbolic link
	plain  uint32 // the block where they are, unless they follow the inode
}

type entry struct {
	name string
	node *placed
}

// A layout is where everything goes: the super block, the devices, the inodes with what
// follows each, and the blocks of directories that have not enough room there.
type layout struct {
	devices []Device
	nodes   []*placed // in their order
	end     uint64    // of the inodes
	blocks  uint64    // of the whole
}

// lay places the tree.
func lay(root *Node, devices []Device) (*layout, error) {
	if !root.IsDir() {
		return nil, fmt.Errorf("the root is no directory: %o", root.Mode)
	}
	if len(devices) > math.MaxUint16 {
		return nil, fmt.Errorf("%d devices: %w", len(devices), ErrTooLarge)
	}
	l := &layout{devices: devices}
	known := map[*Node]*placed{}
	if err := l.add(root, nil, known); err != nil {
		return nil, err
	}
	pos := uint64(superOffset + superSize + deviceSize*len(devices))
	var large []*placed
	for _, n := range l.nodes {
		pos = roundUp(pos, slot)
		if n.isInline() && pos%BlockSize+n.size() > BlockSize { // what follows an inode is in its block
			pos = roundUp(pos, BlockSize)
		}
		n.nid = pos / slot
		pos += n.size()
		if n.body > 0 && !n.isInline() {
			large = append(large, n)
		}
	}
	l.end, l.blocks = pos, roundUp(pos, BlockSize)/BlockSize
	for _, n := range large {
		n.plain = uint32(l.blocks)
		l.blocks += roundUp(n.body, BlockSize) / BlockSize
	}
	if l.nodes[0].nid > math.MaxUint16 || l.blocks > math.MaxUint32 {
		return nil, fmt.Errorf("%d blocks of metadata, %d devices: %w", l.blocks, len(devices), ErrTooLarge)
	}
	return l, nil
}

// add takes in a node and what is below it, in the order of names.
func (l *layout) add(n *Node, parent *placed, known map[*Node]*placed) error {
	xattrs, err := encodeXattrs(n.Xattrs)
	if err != nil {
		return err
	}
	p := &placed{Node: n, links: 1, parent: parent, xattrs: xattrs, body: uint64(len(n.Target))}
	known[n] = p
	l.nodes = append(l.nodes, p)
	if !n.IsDir() {
		return p.check(l.devices)
	}
	if parent == nil {
		p.parent = p
	}
	p.links = 2
	p.names = append(p.names, entry{".", p}, entry{"..", p.parent})
	for _, name := range slices.Sorted(maps.Keys(n.Children)) {
		child := n.Children[name]
		if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\x00") {
			return fmt.Errorf("%.80q is no name", name)
		}
		have := known[child]
		switch {
		case have == nil:
			if err := l.add(child, p, known); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			have = known[child]
		case child.IsDir():
			return fmt.Errorf("%s: a directory with two names", name)
		default:
			have.links++
		}
		if child.IsDir() {
			p.links++
		}
		p.names = append(p.names, entry{name, have})
	}
	slices.SortFunc(p.names, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	p.body = direntsSize(p.names)
	return nil
}

// check finds what a file cannot be.
func (p *placed) check(devices []Device) error {
	switch kind := p.Mode & KindMask; kind {
	case KindRegular:
		if p.Size == 0 {
			return nil
		}
		if p.Data.Device == 0 || int(p.Data.Device) > len(devices) ||
			uint64(p.Data.Block)+roundUp(p.Size, BlockSize)/BlockSize > uint64(devices[p.Data.Device-1].Blocks) {
			return fmt.Errorf("its data is in none of the %d devices: %+v, %d bytes", len(devices), p.Data, p.Size)
		}
	case KindSymlink:
		if p.Target == "" || len(p.Target) >= BlockSize || strings.IndexByte(p.Target, 0) >= 0 {
			return fmt.Errorf("a symbolic link to %.80q", p.Target)
		}
	case KindFifo, KindChar, KindBlock, KindSocket:
	default:
		return fmt.Errorf("mode %o is of no kind of file", p.Mode)
	}
	return nil
}

// isInline tells whether the node's bytes follow it. Those that do not fit into one block
// with it have blocks of their own.
func (p *placed) isInline() bool {
	return p.body > 0 && inodeSize+uint64(len(p.xattrs))+p.body <= BlockSize
}

// isChunked tells whether the node's bytes are in a device.
func (p *placed) isChunked() bool { return p.Mode&KindMask == KindRegular && p.Size > 0 }

// size is what the inode takes with all that follows it.
func (p *placed) size() uint64 {
	size := inodeSize + uint64(len(p.xattrs))
	switch {
	case p.isChunked():
		size = roundUp(size, chunkSize) + chunkSize
	case p.isInline():
		size += p.body
	}
	return size
}

// direntsSize is the size of a directory: its names fill block after block.
func direntsSize(names []entry) uint64 {
	var size uint64
	for block := range blocksOf(names) {
		size = roundUp(size, BlockSize) + blockBytes(block)
	}
	return size
}

// blocksOf gives the names of a directory block by block.
func blocksOf(names []entry) func(func([]entry) bool) {
	return func(yield func([]entry) bool) {
		for start := 0; start < len(names); {
			used, end := 0, start
			for end < len(names) && used+direntSize+len(names[end].name) <= BlockSize {
				used += direntSize + len(names[end].name)
				end++
			}
			if !yield(names[start:end]) {
				return
			}
			start = end
		}
	}
}

func blockBytes(names []entry) (size uint64) {
	for _, e := range names {
		size += direntSize + uint64(len(e.name))
	}
	return size
}

func roundUp(n, unit uint64) uint64 { return (n + unit - 1) / unit * unit }
