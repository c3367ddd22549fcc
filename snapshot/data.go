package snapshot

import (
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/berthd/berth/snapshot/erofs"
)

// dataBuffer is how much of a layer's data is written at once, in bytes. It is memory, for
// each layer being unpacked.
const dataBuffer = 4 * copyChunk

// A dataWriter writes a layer's data: the bytes of files, each from a whole block on. Small
// files go to the disk together: a call for each takes longer than their bytes.
type dataWriter struct {
	file   *os.File // empty at first
	buf    []byte   // room for a copyChunk is left in it
	n      int      // bytes of buf that are not written
	at     int64    // where they go
	stored int64    // up to where the kernel was asked to start storing
	sum    uint32   // of all there is, holes included
}

func newDataWriter(f *os.File) *dataWriter {
	return &dataWriter{file: f, buf: make([]byte, dataBuffer)}
}

// block is where the next file goes.
func (w *dataWriter) block() int64 { return (w.at + int64(w.n)) / erofs.BlockSize }

// add adds a file of size bytes, which it reads from r. Long stretches of zeros are left
// out, so that a sparse file stays one. A reader that ends early is io.ErrUnexpectedEOF.
func (w *dataWriter) add(ctx context.Context, r io.Reader, size int64) error {
	for left := size; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		chunk := w.buf[w.n:][:min(left, copyChunk)]
		if n, err := io.ReadFull(r, chunk); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("after %d of %d bytes: %w", size-left+int64(n), size, err)
		}
		left -= int64(len(chunk))
		if err := w.took(chunk); err != nil {
			return err
		}
	}
	gap := w.buf[w.n:][:-(w.at+int64(w.n))&(erofs.BlockSize-1)]
	clear(gap)
	return w.took(gap)
}

// took counts chunk in, which is in buf already.
func (w *dataWriter) took(chunk []byte) error {
	w.sum = crc32.Update(w.sum, castagnoli, chunk)
	if len(chunk) == copyChunk && isZero(chunk) {
		err := w.flush()
		w.at += copyChunk
		return err
	}
	if w.n += len(chunk); w.n <= len(w.buf)-copyChunk {
		return nil
	}
	return w.flush()
}

func (w *dataWriter) flush() error {
	if _, err := w.file.WriteAt(w.buf[:w.n], w.at); err != nil {
		return err
	}
	w.at += int64(w.n)
	w.n = 0
	if w.at-w.stored >= writebackStep {
		startWriteback(w.file, w.stored)
		w.stored = w.at
	}
	return nil
}

// end writes what is left. The file ends where the next one would begin.
func (w *dataWriter) end() error {
	if err := w.flush(); err != nil {
		return err
	}
	return w.file.Truncate(w.at)
}
