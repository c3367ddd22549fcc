package inflate

import (
	"hash/crc32"
	"io"
)

// Flags in a member's header (RFC 1952, 2.3.1).
const (
	flagHCRC     = 1 << 1
	flagExtra    = 1 << 2
	flagName     = 1 << 3
	flagComment  = 1 << 4
	flagReserved = 0xe0
)

// maxText is the longest name or comment of a member, with the zero that ends it, as in compress/gzip.
const maxText = 512

// header reads a member's header (RFC 1952, 2.3). Only its form counts.
func (z *Reader) header() error {
	if z.pos == z.end {
		err := z.fill()
		if err == io.EOF && z.base+int64(z.pos) == 0 {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	h := headerReader{z: z}
	id1, id2, method, flags := h.byte(), h.byte(), h.byte(), h.byte()
	h.skip(6) // time, extra flags, system
	switch {
	case h.err != nil:
		return h.err
	case id1 != 0x1f || id2 != 0x8b:
		return z.corrupt("no header of a member")
	case method != 8:
		return z.corrupt("compression method is not DEFLATE")
	case flags&flagReserved != 0:
		return z.corrupt("reserved flags in a member's header")
	}
	if flags&flagExtra != 0 {
		low, high := h.byte(), h.byte()
		h.skip(int(low) | int(high)<<8)
	}
	if flags&flagName != 0 {
		h.text()
	}
	if flags&flagComment != 0 {
		h.text()
	}
	if flags&flagHCRC != 0 {
		want := uint16(h.crc)
		low, high := h.byte(), h.byte()
		if got := uint16(low) | uint16(high)<<8; h.err == nil && got != want {
			return z.corrupt("wrong checksum of a member's header")
		}
	}
	z.start, z.summed, z.crc, z.size = z.wp, z.wp, 0, 0
	z.next = atBlock
	return h.err
}

// trailer verifies a member's checksum and length (RFC 1952, 2.3.1).
func (z *Reader) trailer() error {
	z.align()
	z.sum()
	crc, err := z.readLE(4)
	if err != nil {
		return err
	}
	size, err := z.readLE(4)
	if err != nil {
		return err
	}
	switch {
	case crc != z.crc:
		return z.corrupt("wrong checksum")
	case size != z.size:
		return z.corrupt("wrong length")
	}
	z.next = atMember
	return nil
}

// A headerReader reads the bytes of a header. After an error they are zero.
type headerReader struct {
	z   *Reader
	crc uint32 // of what has been read
	err error
}

func (h *headerReader) byte() byte {
	if h.err != nil {
		return 0
	}
	var b [1]byte
	b[0], h.err = h.z.readByte()
	h.crc = crc32.Update(h.crc, crc32.IEEETable, b[:])
	return b[0]
}

func (h *headerReader) skip(n int) {
	for ; n > 0 && h.err == nil; n-- {
		h.byte()
	}
}

// text skips bytes up to a zero.
func (h *headerReader) text() {
	for range maxText {
		if h.byte() == 0 {
			return
		}
	}
	h.err = h.z.corrupt("name or comment is too long")
}
