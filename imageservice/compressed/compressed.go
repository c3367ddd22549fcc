// Package compressed reads what layers and archives of images are compressed with: gzip,
// zstd or nothing, which its first bytes tell. What a media type or a name says does not
// count: images exist that have it wrong.
//
// The input is hostile: memory has a cap whatever it says. How much comes out has none, that is for
// the caller. Nothing is kept, so a crash leaves nothing behind.
package compressed

import (
	"bufio"
	"bytes"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/berthd/berth/imageservice/inflate"
)

// maxWindow is the largest zstd window that is decoded, in bytes: it is memory. It
// is what zstd's own command line takes without being told to (--long=27).
const maxWindow = 128 << 20

// A Kind is how something is compressed.
type Kind int

// The kinds.
const (
	Plain Kind = iota // not at all, as far as one knows
	Gzip
	Zstd
)

// MagicLen is how many bytes tell a Kind.
const MagicLen = 4

var (
	gzipMagic = []byte{0x1f, 0x8b, 0x08}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
	// A zstd stream may begin with a skippable frame, 0x184D2A5? (RFC 8878, 3.1.2).
	skipMagic = []byte{0x2a, 0x4d, 0x18}
)

// KindOf tells how something is compressed that begins with magic: MagicLen bytes, or all of it.
func KindOf(magic []byte) Kind {
	switch {
	case bytes.HasPrefix(magic, gzipMagic):
		return Gzip
	case bytes.HasPrefix(magic, zstdMagic), len(magic) >= MagicLen && magic[0]&0xf0 == 0x50 && bytes.HasPrefix(magic[1:], skipMagic):
		return Zstd
	}
	return Plain
}

// A Reader gives what is compressed in another reader. An error that is not that reader's own says that
// the data is bad: io.ErrUnexpectedEOF, that it ends early. It is for one goroutine. Close it.
type Reader struct {
	kind Kind
	from io.Reader
	end  func()
}

// NewReader begins to read r, whose error it returns if that has one. The Reader reads ahead of
// what it hands out, and, but for Plain, need not read r to its end.
func NewReader(r io.Reader) (*Reader, error) {
	in := bufio.NewReaderSize(r, 128<<10)
	magic, err := in.Peek(MagicLen)
	if err != nil && err != io.EOF {
		return nil, err
	}
	z := &Reader{kind: KindOf(magic), from: in, end: func() {}}
	switch z.kind {
	case Gzip:
		z.from = inflate.NewReader(in)
	case Zstd:
		d, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		z.from, z.end = d, d.Close
	}
	return z, nil
}

// Kind is how it is compressed.
func (z *Reader) Kind() Kind { return z.kind }

// Read implements io.Reader.
func (z *Reader) Read(p []byte) (int, error) { return z.from.Read(p) }

// Close lets go of memory; not of what is read from.
func (z *Reader) Close() { z.end() }
