package imagefile

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"

	"github.com/berthd/berth/imageservice/registry"
	"github.com/berthd/berth/imageservice/registry/registrytest"
)

// A sink takes an archive, and calls first when it gets something.
type sink struct {
	n     int64
	first func()
}

func (s *sink) Write(p []byte) (int, error) {
	if s.n == 0 && s.first != nil {
		s.first()
	}
	s.n += int64(len(p))
	return len(p), nil
}

func (s *sink) ReadAt([]byte, int64) (int, error) { return 0, errors.New("not to be read") }

func noLimit(int64) int64 { return 1 << 40 }

func archiveOf(t *testing.T, hdr tar.Header, content []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	hdr.Size, hdr.Mode = int64(len(content)), 0o644
	if err := w.WriteHeader(&hdr); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// retyped is an archive of one member, as of another type, without its end.
func retyped(archive []byte, kind byte) []byte {
	out := bytes.Clone(archive[:len(archive)-1024])
	out[156] = kind
	copy(out[148:156], "        ")
	sum := 0
	for _, b := range out[:512] {
		sum += int(b)
	}
	copy(out[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return out
}

// TestSparse: a hole in a file is not in the archive, so no cap sees it.
func TestSparse(t *testing.T) {
	var records []byte
	for _, r := range [][2]string{{"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.name", "x"}, {"GNU.sparse.realsize", strconv.Itoa(64 << 20)}} {
		line := " " + r[0] + "=" + r[1] + "\n"
		records = append(records, strconv.Itoa(len(line)+2)+line...)
	}
	pax := retyped(archiveOf(t, tar.Header{Name: "PaxHeaders/x"}, records), 'x')
	sparse := append(pax, archiveOf(t, tar.Header{Name: "GNUSparseFile/x"}, append([]byte("0\n"), make([]byte, 510)...))...)
	old := archiveOf(t, tar.Header{Name: "y", Format: tar.FormatGNU}, nil)
	old = append(retyped(old, tar.TypeGNUSparse), make([]byte, 1024)...)
	for name, data := range map[string][]byte{"PAX": sparse, "GNU": old} {
		var to sink
		if _, err := Read(t.Context(), bytes.NewReader(data), &to, noLimit); !errors.Is(err, registry.ErrCorrupt) || to.n != 0 {
			t.Errorf("%s: %d bytes written, %v", name, to.n, err)
		}
	}
}

// TestCancelled: what is small when it is compressed ends with its caller, too.
func TestCancelled(t *testing.T) {
	data := registrytest.Zstd(archiveOf(t, tar.Header{Name: "x"}, make([]byte, 64<<20)))
	ctx, cancel := context.WithCancel(t.Context())
	to := sink{first: cancel}
	if _, err := Read(ctx, bytes.NewReader(data), &to, noLimit); !errors.Is(err, context.Canceled) || to.n > 8<<20 {
		t.Errorf("%d bytes written, %v", to.n, err)
	}
}

// TestTooLarge: what is read says how much may come of it.
func TestTooLarge(t *testing.T) {
	data := registrytest.Gzip(archiveOf(t, tar.Header{Name: "x"}, make([]byte, 64<<20)))
	var to sink
	if _, err := Read(t.Context(), bytes.NewReader(data), &to, func(n int64) int64 { return 10 * n }); !errors.Is(err, registry.ErrTooLarge) || to.n > 20*int64(len(data)) {
		t.Errorf("%d bytes written of %d, %v", to.n, len(data), err)
	}
}
