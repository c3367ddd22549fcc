package compressed

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"

	"github.com/berthd/berth/imageservice/registry/registrytest"
)

func zstdOf(t *testing.T, data []byte, o ...zstd.EOption) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, o...)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(data, nil)
}

func TestReader(t *testing.T) {
	text := bytes.Repeat([]byte("a layer, or an archive of images\n"), 1<<15)
	skip := []byte{0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c'}
	for _, tt := range []struct {
		name string
		data []byte
		want Kind
		text []byte
	}{
		{"gzip", registrytest.Gzip(text), Gzip, text},
		{"two members of gzip", append(registrytest.Gzip(text), registrytest.Gzip(text)...), Gzip, append(bytes.Clone(text), text...)},
		{"zstd", zstdOf(t, text), Zstd, text},
		{"zstd behind a skippable frame", append(bytes.Clone(skip), zstdOf(t, text)...), Zstd, text},
		{"plain", text, Plain, text},
		{"too short to tell", []byte{0x28, 0xb5, 0x2f}, Plain, []byte{0x28, 0xb5, 0x2f}},
		{"nothing", nil, Plain, nil},
		{"compress(1)", []byte{0x1f, 0x9d, 0x90, 0x61}, Plain, []byte{0x1f, 0x9d, 0x90, 0x61}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			z, err := NewReader(iotest.HalfReader(bytes.NewReader(tt.data)))
			if err != nil {
				t.Fatal(err)
			}
			defer z.Close()
			got, err := io.ReadAll(z)
			if z.Kind() != tt.want || err != nil || !bytes.Equal(got, tt.text) {
				t.Errorf("kind %d, %d bytes of %d, %v", z.Kind(), len(got), len(tt.text), err)
			}
		})
	}
}

// TestBad: what is no stream of its kind is an error, and so is what the source says.
func TestBad(t *testing.T) {
	noise := make([]byte, 1<<20)
	rng := rand.NewChaCha8([32]byte{})
	_, _ = rng.Read(noise)
	flipped := registrytest.Gzip(noise)
	flipped[len(flipped)-5] ^= 1
	broken := errors.New("the source is broken")
	for _, tt := range []struct {
		name string
		from io.Reader
		want error // nil: any
	}{
		{"a cut gzip", bytes.NewReader(registrytest.Gzip(noise)[:1000]), io.ErrUnexpectedEOF},
		{"a cut zstd", bytes.NewReader(zstdOf(t, noise)[:1000]), io.ErrUnexpectedEOF},
		{"a wrong checksum", bytes.NewReader(flipped), nil},
		{"zeros behind gzip", bytes.NewReader(append(registrytest.Gzip(noise), 0, 0)), nil},
		{"the source breaks at once", iotest.ErrReader(broken), broken},
		{"the source breaks in gzip", io.MultiReader(bytes.NewReader(registrytest.Gzip(noise)[:1000]), iotest.ErrReader(broken)), broken},
		{"the source breaks in zstd", io.MultiReader(bytes.NewReader(zstdOf(t, noise)[:1000]), iotest.ErrReader(broken)), broken},
		// A frame's header with a window of 256 MiB (RFC 8878, 3.1.1.1.2).
		{"too much memory", bytes.NewReader([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, (28 - 10) << 3, 0, 0, 0}), zstd.ErrWindowSizeExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			z, err := NewReader(tt.from)
			if err == nil {
				defer z.Close()
				_, err = io.Copy(io.Discard, z)
			}
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}
