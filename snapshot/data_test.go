package snapshot

import (
	"bytes"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/snapshot/erofs"
)

// TestDataWriter: whatever the files' sizes are, each is where it was said to go, and the
// checksum is that of the whole.
func TestDataWriter(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := newDataWriter(f)
	random := rand.NewChaCha8([32]byte{1})
	var want []byte
	sizes := []int{1, erofs.BlockSize, erofs.BlockSize + 1, copyChunk - 1, copyChunk, copyChunk + 1, dataBuffer - 1, dataBuffer, dataBuffer + 5, writebackStep + 77}
	for i := range 5 * len(sizes) {
		size := sizes[i*7%len(sizes)] + i
		body := make([]byte, size)
		if i%5 > 0 { // the others are holes
			if _, err := io.ReadFull(random, body); err != nil {
				t.Fatal(err)
			}
		}
		if at := w.block() * erofs.BlockSize; at != int64(len(want)) {
			t.Fatalf("file %d goes to %d, want %d", i, at, len(want))
		}
		if err := w.add(t.Context(), bytes.NewReader(body), int64(size)); err != nil {
			t.Fatal(err)
		}
		want = append(want, body...)
		want = append(want, make([]byte, -len(want)&(erofs.BlockSize-1))...)
	}
	if err := w.end(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(f.Name())
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v; want %d, the same", len(got), err, len(want))
	}
	if sum := crc32.Checksum(want, castagnoli); w.sum != sum {
		t.Errorf("checksum %08x, want %08x", w.sum, sum)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if used := st.Blocks * 512; used > int64(len(want))-copyChunk {
		t.Errorf("%d bytes take %d on disk: no hole is left", len(want), used)
	}
}
