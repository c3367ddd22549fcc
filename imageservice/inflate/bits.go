package inflate

import "io"

// maxEmptyReads is how often in a row a source may return neither bytes nor an error.
const maxEmptyReads = 100

// fill reads more input when there is none left. It returns io.EOF at the end of
// the source, and the source's error if it has failed.
func (z *Reader) fill() error {
	if z.srcErr != nil {
		return z.srcErr
	}
	kept := copy(z.in, z.in[z.pos-unread:z.pos])
	z.base += int64(z.pos - kept)
	z.pos, z.end = kept, kept
	for range maxEmptyReads {
		n, err := z.src.Read(z.in[kept:])
		if n < 0 || n > len(z.in)-kept {
			n, err = 0, io.ErrNoProgress // not to be trusted with anything
		}
		z.end, z.srcErr = kept+n, err
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	z.srcErr = io.ErrNoProgress
	return z.srcErr
}

// fillMore is fill where the stream may not end.
func (z *Reader) fillMore() error {
	err := z.fill()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// top takes as much into the bit buffer as there is and fits, at most 63 bits.
func (z *Reader) top() {
	for z.nbits <= 55 && z.pos < z.end {
		z.hold |= uint64(z.in[z.pos]) << z.nbits
		z.pos++
		z.nbits += 8
	}
}

// need sees to it that there are n bits in the bit buffer, at most 48.
func (z *Reader) need(n uint64) error {
	for z.nbits < n {
		if z.pos == z.end {
			if err := z.fillMore(); err != nil {
				return err
			}
		}
		z.top()
	}
	return nil
}

// take removes n bits from the bit buffer; they must be there.
func (z *Reader) take(n uint64) uint64 {
	v := z.hold & (1<<n - 1)
	z.hold >>= n
	z.nbits -= n
	return v
}

// align drops what is left of a byte and gives back the whole bytes of the bit buffer.
func (z *Reader) align() {
	z.pos -= int(z.nbits / 8)
	z.hold, z.nbits = 0, 0
}

// readByte reads one byte; the bit buffer must be empty.
func (z *Reader) readByte() (byte, error) {
	if z.pos == z.end {
		if err := z.fillMore(); err != nil {
			return 0, err
		}
	}
	b := z.in[z.pos]
	z.pos++
	return b, nil
}

// readLE reads a little-endian number of n bytes; the bit buffer must be empty.
func (z *Reader) readLE(n int) (v uint32, err error) {
	for i := range n {
		b, err := z.readByte()
		if err != nil {
			return 0, err
		}
		v |= uint32(b) << (8 * i)
	}
	return v, nil
}
