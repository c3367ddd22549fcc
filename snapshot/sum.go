package snapshot

import (
	"context"
	"fmt"
	"hash/crc32"
	"io"
)

// Checksums are CRC32C: they find what a disk or a power cut has changed, not what
// somebody has, who could change them too. The processor has an instruction for it, and
// unpacking does not wait for it.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A crcWriter adds what is written to a checksum.
type crcWriter struct{ sum *uint32 }

func (w crcWriter) Write(p []byte) (int, error) {
	*w.sum = crc32.Update(*w.sum, castagnoli, p)
	return len(p), nil
}

// checkSum reads the file at path; ErrDamaged when it has another checksum or is not there.
func checkSum(ctx context.Context, path string, want uint32) error {
	f, err := openOurs(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var sum uint32
	if _, err := io.Copy(crcWriter{&sum}, &source{r: f, ctx: ctx, left: maxFile}); err != nil {
		if ctx.Err() == nil {
			err = fmt.Errorf("%w: %w", ErrDamaged, err) // the disk cannot read it
		}
		return err
	}
	if sum != want {
		return fmt.Errorf("%s: checksum %08x, not %08x: %w", path, sum, want, ErrDamaged)
	}
	return nil
}

// maxFile is more than any file has, in bytes.
const maxFile = 1 << 62
