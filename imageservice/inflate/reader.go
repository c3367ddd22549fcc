package inflate

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// ErrCorrupt says that the input is no gzip stream, or a damaged one. It comes
// wrapped with the reason and the place, in bytes of input.
var ErrCorrupt = errors.New("corrupt gzip stream")

const (
	window   = 32 << 10  // how far back a match reaches (RFC 1951, 2)
	inSize   = 128 << 10 // what is asked of the source at once
	outSize  = 256 << 10 // what is decoded at once
	maxMatch = 258
	// outSlack is the room that one step of decoding may need: four literals or three
	// and a match, and what copying in large units writes beyond it.
	outSlack = 4 + maxMatch + 16
	// inSlack is what one step may read ahead: two refills.
	inSlack = 16
	// unread is how many bytes of the input before the current ones are kept, for
	// what is in the bit buffer to be given back.
	unread = 8
)

// A Reader decompresses a gzip stream. Its output has to be read to the end
// (io.EOF) before it may be trusted: checksums come last. It is for one goroutine.
type Reader struct {
	src    io.Reader
	srcErr error

	in       []byte // in[pos:end] has not been looked at, in[pos-unread:pos] has just been
	pos, end int
	base     int64 // where in[0] is in the stream

	hold  uint64 // the next bits, lowest first; zero above nbits, except within fast
	nbits uint64

	out    []byte
	rp, wp int // out[rp:wp] is decoded and not handed out
	start  int // out[start:wp] is what matches may refer to, or more
	summed int // out[:summed] is in crc and size

	crc  uint32 // of the current member
	size uint32 // of the current member, modulo 2^32

	next  step
	err   error
	final bool // the current block is its member's last
	left  int  // of a stored block, in bytes

	tab *tables // of the current block
	own *tables // those of dynamic blocks
}

// A step is what the decoder does next.
type step uint8

const (
	atMember  step = iota // a header, or the end of the input if it is not the first
	atBlock               // a block's header
	inStored              // left bytes of a stored block
	inCodes               // symbols of a compressed block
	atTrailer             // a member's checksum and length
)

// NewReader returns a Reader of what is compressed in r. It reads nothing yet. The
// Reader reads r to its end, ahead of what it hands out.
func NewReader(r io.Reader) *Reader {
	z := &Reader{
		in:  make([]byte, unread+inSize),
		out: make([]byte, window+outSize+outSlack),
		own: new(tables),
	}
	z.Reset(r)
	return z
}

// Reset makes z begin anew with r. It keeps z's buffers.
func (z *Reader) Reset(r io.Reader) {
	*z = Reader{src: r, in: z.in, out: z.out, own: z.own, pos: unread, end: unread, base: -unread}
}

// Read implements io.Reader. An error is ErrCorrupt, io.ErrUnexpectedEOF if the
// input is cut short, or the source's own; what was decoded before it comes first.
func (z *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if !z.more() {
		return 0, z.err
	}
	n := copy(p, z.out[z.rp:z.wp])
	z.rp += n
	return n, nil
}

// WriteTo implements io.WriterTo. It writes from the buffer that it decodes into.
// When w fails, what w has not taken can still be read.
func (z *Reader) WriteTo(w io.Writer) (int64, error) {
	var sum int64
	for z.more() {
		n, err := w.Write(z.out[z.rp:z.wp])
		if n < 0 || n > z.wp-z.rp {
			return sum, errors.New("inflate: a Write with an impossible count")
		}
		sum += int64(n)
		z.rp += n
		if err != nil {
			return sum, err
		}
		if z.rp < z.wp {
			return sum, io.ErrShortWrite
		}
	}
	if z.err == io.EOF {
		return sum, nil
	}
	return sum, z.err
}

// more decodes until there is something to hand out. If there is not, z.err says why.
func (z *Reader) more() bool {
	for z.rp == z.wp {
		if z.err != nil {
			return false
		}
		z.slide()
		for z.err == nil && z.room() {
			z.err = z.step()
		}
		z.sum()
	}
	return true
}

// slide makes room in out by keeping only what matches may refer to. All else has been handed out.
func (z *Reader) slide() {
	if z.room() {
		return
	}
	keep := min(window, z.wp-z.start)
	copy(z.out, z.out[z.wp-keep:z.wp])
	z.start, z.rp, z.wp, z.summed = 0, keep, keep, keep
}

// room tells whether there is room for one step of decoding.
func (z *Reader) room() bool { return z.wp <= len(z.out)-outSlack }

// sum adds what is new in out to the checksum and the length.
func (z *Reader) sum() {
	fresh := z.out[z.summed:z.wp]
	z.crc = crc32.Update(z.crc, crc32.IEEETable, fresh)
	z.size += uint32(len(fresh))
	z.summed = z.wp
}

func (z *Reader) step() error {
	switch z.next {
	case atMember:
		return z.header()
	case atBlock:
		return z.block()
	case inStored:
		return z.stored()
	case inCodes:
		return z.codes()
	default:
		return z.trailer()
	}
}

// corrupt is ErrCorrupt with the reason and about the place.
func (z *Reader) corrupt(why string) error {
	return fmt.Errorf("%w: %s at byte %d", ErrCorrupt, why, z.base+int64(z.pos)-int64(z.nbits/8))
}
