package erofs

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
)

// The super block's fields that never differ.
const (
	magic = 0xe0f5e1e2

	compatChecksum = 0x1
	compatMtime    = 0x2

	incompatChunked = 0x4
	incompatDevices = 0x8

	devicesAt = 86 // where the super block has the number of devices

	chunkIndexes = 0x20 // a chunk names its device
)

// kinds are the kinds of files as directories have them.
var kinds = map[uint32]uint8{
	KindRegular: 1, KindDir: 2, KindChar: 3, KindBlock: 4, KindFifo: 5, KindSocket: 6, KindSymlink: 7,
}

// Write writes the file system with that tree over devices, which go to the kernel in the
// same order (mount option device=). It is a whole number of blocks.
func Write(w io.Writer, root *Node, devices []Device) error {
	l, err := lay(root, devices)
	if err != nil {
		return err
	}
	first := &head{w: w}
	out := &cursor{w: bufio.NewWriterSize(first, 256<<10)}
	out.pad(superOffset)
	out.write(l.super())
	for _, d := range devices {
		out.write(d.slot())
	}
	for i, n := range l.nodes {
		out.pad(n.nid * slot)
		out.write(n.inode(uint32(i)))
		out.write(n.xattrs)
		switch {
		case n.isChunked():
			out.pad(roundUp(out.pos, chunkSize))
			out.write(n.chunk())
		case n.isInline():
			out.write(n.bytes())
		}
	}
	for _, n := range l.nodes {
		if n.body > 0 && !n.isInline() {
			out.pad(uint64(n.plain) * BlockSize)
			out.write(n.bytes())
		}
	}
	out.pad(l.blocks * BlockSize)
	if out.err == nil {
		out.err = out.w.Flush()
	}
	return out.err
}

// A cursor writes and knows where. It keeps its first error.
type cursor struct {
	w   *bufio.Writer
	pos uint64
	err error
}

func (c *cursor) write(p []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(p)
		c.pos += uint64(len(p))
	}
}

var zeros [BlockSize]byte

// pad writes zeros up to pos.
func (c *cursor) pad(pos uint64) {
	if pos < c.pos && c.err == nil {
		c.err = fmt.Errorf("at %d, where %d was to be", c.pos, pos)
	}
	for c.err == nil && c.pos < pos {
		c.write(zeros[:min(BlockSize, pos-c.pos)])
	}
}

// A head holds the first block back until it is whole, and writes it with the super
// block's checksum, which is over all of it.
type head struct {
	w     io.Writer
	block []byte
	done  bool
}

func (h *head) Write(p []byte) (int, error) {
	if h.done {
		return h.w.Write(p)
	}
	n := min(len(p), BlockSize-len(h.block))
	if h.block = append(h.block, p[:n]...); len(h.block) < BlockSize {
		return n, nil
	}
	h.done = true
	sum := ^crc32.Checksum(h.block[superOffset:], crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(h.block[superOffset+4:], sum)
	if _, err := h.w.Write(h.block); err != nil {
		return 0, err
	}
	if n == len(p) {
		return n, nil
	}
	m, err := h.w.Write(p[n:])
	return n + m, err
}

// super is the super block, without its checksum.
func (l *layout) super() []byte {
	b := make([]byte, superSize)
	le := binary.LittleEndian
	le.PutUint32(b[0:], magic)
	le.PutUint32(b[8:], compatChecksum|compatMtime)
	b[12] = blockBits
	le.PutUint16(b[14:], uint16(l.nodes[0].nid))
	le.PutUint64(b[16:], uint64(len(l.nodes)))
	le.PutUint32(b[36:], uint32(l.blocks))
	le.PutUint32(b[80:], incompatChunked|incompatDevices)
	le.PutUint16(b[devicesAt:], uint16(len(l.devices)))
	le.PutUint16(b[88:], (superOffset+superSize)/deviceSize)
	return b
}

func (d Device) slot() []byte {
	b := make([]byte, deviceSize)
	copy(b[:64], d.Tag)
	binary.LittleEndian.PutUint32(b[64:], d.Blocks)
	return b
}

// inode is the node's own 64 bytes; number is what tells it from others where numbers
// are short.
func (p *placed) inode(number uint32) []byte {
	b := make([]byte, inodeSize)
	le := binary.LittleEndian
	way, size, u := flatPlain, p.body, p.plain
	switch kind := p.Mode & KindMask; {
	case p.isChunked():
		way, size = chunkBased, p.Size
		u = chunkIndexes | uint32(bits.Len64((p.Size-1)>>blockBits))
	case p.isInline():
		way = flatInline
	case kind == KindChar || kind == KindBlock:
		u = p.Rdev
	}
	le.PutUint16(b[0:], uint16(1|way<<1))
	if len(p.xattrs) > 0 {
		le.PutUint16(b[2:], uint16((len(p.xattrs)-xattrHeader)/xattrEntry+1))
	}
	le.PutUint16(b[4:], uint16(p.Mode))
	le.PutUint64(b[8:], size)
	le.PutUint32(b[16:], u)
	le.PutUint32(b[20:], number)
	le.PutUint32(b[24:], p.UID)
	le.PutUint32(b[28:], p.GID)
	le.PutUint64(b[32:], uint64(p.Mtime.Unix()))
	le.PutUint32(b[40:], uint32(p.Mtime.Nanosecond()))
	le.PutUint32(b[44:], p.links)
	return b
}

// chunk is where all of a regular file is.
func (p *placed) chunk() []byte {
	b := make([]byte, chunkSize)
	binary.LittleEndian.PutUint16(b[2:], p.Data.Device)
	binary.LittleEndian.PutUint32(b[4:], p.Data.Block)
	return b
}

// bytes are those of a directory or symbolic link.
func (p *placed) bytes() []byte {
	if !p.IsDir() {
		return []byte(p.Target)
	}
	out := make([]byte, 0, p.body)
	for block := range blocksOf(p.names) {
		out = append(out, zeros[:roundUp(uint64(len(out)), BlockSize)-uint64(len(out))]...)
		at := len(block) * direntSize
		for _, e := range block {
			out = binary.LittleEndian.AppendUint64(out, e.node.nid)
			out = binary.LittleEndian.AppendUint16(out, uint16(at))
			out = append(out, kinds[e.node.Mode&KindMask], 0)
			at += len(e.name)
		}
		for _, e := range block {
			out = append(out, e.name...)
		}
	}
	return out
}
