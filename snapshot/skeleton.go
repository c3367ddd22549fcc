package snapshot

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"

	"github.com/berthd/berth/snapshot/erofs"
)

// A layer's skeleton is what its archive has beside the contents that are in the layer's
// data: headers, padding, the end and what follows it. From both, the archive can be made
// again byte for byte, so that nothing is kept twice.
//
// It is a zstd stream of parts. A part begins with a number (a uvarint of encoding/binary),
// whose two lowest bits say what it is and the others how much:
//
//	0  that many bytes of the archive follow
//	1  that many bytes of the archive are in the data, from the next whole block on
//	2  that many blocks of the data are not in the archive: those of a sparse file, which
//	   stands in the archive in another form, and here with the bytes that follow
const (
	partBytes = iota
	partContent
	partSkip
)

const (
	skeletonChunk  = 128 << 10 // the most bytes in a part
	skeletonWindow = 512 << 10 // zstd's; it is memory, for each layer being unpacked
)

// A skeletonWriter passes an archive on to whoever reads it, and writes the skeleton of it.
type skeletonWriter struct {
	from    io.Reader // set before the first Read
	file    *os.File
	sum     uint32 // of the file
	out     *zstd.Encoder
	bytes   []byte // not written yet
	content bool   // what is read is kept elsewhere
	err     error
}

// newSkeleton makes a skeleton's file at path. Call close.
func newSkeleton(path string) (*skeletonWriter, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	s := &skeletonWriter{file: f, bytes: make([]byte, 0, skeletonChunk)}
	s.out, err = zstd.NewWriter(io.MultiWriter(f, crcWriter{&s.sum}), zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(skeletonWindow), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false))
	return s, err
}

// Read implements io.Reader.
func (s *skeletonWriter) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.from.Read(p)
	if s.content {
		return n, err
	}
	for keep := p[:n]; len(keep) > 0; {
		part := keep[:min(len(keep), cap(s.bytes)-len(s.bytes))]
		s.bytes = append(s.bytes, part...)
		keep = keep[len(part):]
		if len(s.bytes) == cap(s.bytes) {
			s.flush()
		}
	}
	return n, err
}

// begin says that size bytes come that are put into the data, and end that they have come.
func (s *skeletonWriter) begin(size int64) {
	s.content = true
	s.flush()
	s.part(partContent, uint64(size))
}

func (s *skeletonWriter) end() { s.content = false }

// skip says that the data has that many blocks of something that is read in another form.
func (s *skeletonWriter) skip(blocks int64) {
	s.flush()
	s.part(partSkip, uint64(blocks))
}

func (s *skeletonWriter) part(kind int, n uint64) {
	s.write(binary.AppendUvarint(nil, n<<2|uint64(kind)))
}

func (s *skeletonWriter) flush() {
	if len(s.bytes) > 0 {
		s.part(partBytes, uint64(len(s.bytes)))
		s.write(s.bytes)
		s.bytes = s.bytes[:0]
	}
}

func (s *skeletonWriter) write(p []byte) {
	if s.err == nil {
		_, s.err = s.out.Write(p)
	}
}

// close ends the skeleton and gives its checksum.
func (s *skeletonWriter) close() (uint32, error) {
	s.flush()
	err := errors.Join(s.err, s.out.Close(), s.file.Close()) // the second writes, and changes the sum
	return s.sum, err
}

// A rebuilding makes an archive again of a layer's skeleton and data. Its errors are
// ErrDamaged, the context's or the writer's.
type rebuilding struct {
	ctx      context.Context
	to       io.Writer
	skeleton *bufio.Reader
	data     io.Reader
	buf      []byte
}

// all writes the whole archive, and reads the data to its end.
func (r *rebuilding) all() error {
	for {
		n, err := binary.ReadUvarint(r.skeleton)
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("skeleton: %w: %w", ErrDamaged, err)
		}
		switch n & 3 {
		case partBytes:
			err = r.copy(r.to, r.skeleton, n>>2)
		case partContent:
			if err = r.copy(r.to, r.data, n>>2); err == nil {
				err = r.copy(nil, r.data, -(n>>2)%erofs.BlockSize)
			}
		case partSkip:
			err = r.copy(nil, r.data, n>>2*erofs.BlockSize)
		default:
			err = fmt.Errorf("skeleton: %w", ErrDamaged)
		}
		if err != nil {
			return err
		}
	}
	if n, err := io.ReadFull(r.data, r.buf[:1]); n > 0 || err != io.EOF {
		return fmt.Errorf("data: more than the skeleton says: %w", errors.Join(ErrDamaged, err))
	}
	return nil
}

// copy copies n bytes; to nowhere when to is nil.
func (r *rebuilding) copy(to io.Writer, from io.Reader, n uint64) error {
	for n > 0 {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		chunk := r.buf[:min(n, uint64(len(r.buf)))]
		if _, err := io.ReadFull(from, chunk); err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if to != nil {
			if _, err := to.Write(chunk); err != nil {
				return err
			}
		}
		n -= uint64(len(chunk))
	}
	return nil
}
