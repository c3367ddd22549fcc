package snapshot

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// oddArchives are archives that are more than a row of files.
func oddArchives(t *testing.T) map[string][]byte {
	long := strings.Repeat("long/", 60) + "name"
	whole := archive(t, dir("d", 0o755), file("d/f", strings.Repeat("x", 70_000)), file("d/empty", ""), file("d/block", strings.Repeat("y", 4096)))
	return map[string][]byte{
		"files":                   whole,
		"no entries":              archive(t),
		"nothing at all":          {},
		"a name twice":            archive(t, file("f", "first of them"), file("f", "second"), hardlink("g", "f"), file("f", "third")),
		"contents nobody keeps":   plain(t, []entry{file(".wh..wh.plnk/1", "AUFS"), file(".wh.gone", "whiteout"), file("d/.wh..wh..opq", "opaque"), file("f", "x")}),
		"long names, attributes":  archive(t, file(long, "x").xattr("user.a", strings.Repeat("v", 3000)), symlink("l", long)),
		"other headers":           plain(t, []entry{{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"comment": "x"}}}, file("f", "x").with(func(h *tar.Header) { h.Format, h.Name = tar.FormatGNU, long })}),
		"padding of random bytes": append(bytes.Clone(whole), bytes.Repeat([]byte("no zeros"), 100_000)...),
		"no end":                  whole[:len(whole)-1024],
		"half an end":             whole[:len(whole)-512],
		"a sparse file of zeros":  archive(t, file("f", strings.Repeat("\x00", 3<<20)), file("g", "x")),
		"contents as of a header": archive(t, file("f", string(whole)), file("g", "x")),
	}
}

// TestArchive: the archive of a layer comes back byte for byte, whatever it was like, and a
// changed byte of any of the layer's files does not go unseen.
func TestArchive(t *testing.T) {
	d, err := Open(t.Context(), "erofs", scratch(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range oddArchives(t) {
		t.Run(name, func(t *testing.T) { comesBack(t, d, data) })
	}
	for _, form := range []string{"--format=gnu", "--format=pax --sparse-version=0.0", "--format=pax --sparse-version=0.1", "--format=pax --sparse-version=1.0"} {
		t.Run("sparse by tar "+form, func(t *testing.T) { comesBack(t, d, sparseTar(t, form)) })
	}
}

func comesBack(t *testing.T, d Driver, data []byte) {
	id := digest.FromBytes(data)
	if err := d.AddLayer(t.Context(), id, bytes.NewReader(data), nil); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := d.Archive(t.Context(), id, &got); err != nil || !bytes.Equal(got.Bytes(), data) {
		t.Errorf("%d bytes for %d, %v", got.Len(), len(data), err)
	}
	if err := d.VerifyLayer(t.Context(), id); err != nil {
		t.Error(err)
	}
	if err := d.RemoveLayer(t.Context(), id); err != nil {
		t.Error(err)
	}
}

// sparseTar is an archive by GNU tar with sparse files between others.
func sparseTar(t *testing.T, form string) []byte {
	dir := t.TempDir()
	for name, write := range map[string]func(*os.File) error{
		"a":      func(f *os.File) error { _, err := f.WriteString("dense"); return err },
		"b-hole": func(f *os.File) error { _, err := f.WriteAt([]byte("end"), 3<<20); return err },
		"c-many": func(f *os.File) error {
			var errs []error
			for i := range 40 {
				_, err := f.WriteAt([]byte("island"), int64(i)<<17)
				errs = append(errs, err)
			}
			return errors.Join(append(errs, f.Truncate(6<<20))...)
		},
		"d-only": func(f *os.File) error { return f.Truncate(1 << 20) },
		"e":      func(f *os.File) error { _, err := f.WriteString("dense again"); return err },
	} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(write(f), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	args := append(strings.Fields(form), "--sparse", "--sort=name", "-C", dir, "-cf", "-", ".")
	out, err := exec.Command("tar", args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestArchiveNeeds: a layer that cannot be made an archive again says so, and so does one
// whose diff ID is no digest of it.
func TestArchiveNeeds(t *testing.T) {
	top := scratch(t)
	d, err := Open(t.Context(), "erofs", filepath.Join(top, "erofs"))
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	data, id := archive(t, file("f", "x")), digest.FromString("an artifact's file")
	if err := d.AddLayer(t.Context(), id, bytes.NewReader(data), nil); err != nil {
		t.Fatal(err)
	}
	if err := d.Archive(t.Context(), id, &got); !errors.Is(err, ErrNotDigest) || !bytes.Equal(got.Bytes(), data) {
		t.Errorf("of another digest: %d bytes, %v", got.Len(), err)
	}
	if err := d.VerifyLayer(t.Context(), id); err != nil {
		t.Error(err)
	}
	absent := digest.FromString("absent")
	if err := errors.Join(d.Archive(t.Context(), absent, &got), d.VerifyLayer(t.Context(), absent)); !errors.Is(err, ErrNotFound) {
		t.Errorf("absent: %v", err)
	}
	if err := d.Archive(t.Context(), id, failing{errors.ErrUnsupported}); !errors.Is(err, errors.ErrUnsupported) || errors.Is(err, ErrDamaged) {
		t.Errorf("a writer that fails: %v", err)
	}
	overlay, err := Open(t.Context(), "overlay", filepath.Join(top, "overlay"))
	if err != nil {
		t.Fatal(err)
	}
	folder := add(t, overlay, file("f", "x"))
	for _, err := range []error{overlay.Archive(t.Context(), folder, &got), overlay.VerifyLayer(t.Context(), folder)} {
		if !errors.Is(err, ErrUnsupported) || errors.Is(err, ErrDamaged) {
			t.Errorf("a folder: %v", err)
		}
	}
}

// TestVerifyDigest: a layer whose checksums are right and whose digest is not is damaged,
// unless it is one file, as an artifact's is.
func TestVerifyDigest(t *testing.T) {
	for _, tt := range []struct {
		name    string
		entries []entry
		want    error
	}{
		{"artifact", []entry{file("models/a.bin", "x")}, nil},
		{"two files", []entry{file("a", "x"), file("b", "x")}, ErrDamaged},
		{"a file in a directory", []entry{dir("d", 0o755), file("d/a", "x")}, ErrDamaged},
		{"a directory", []entry{dir("d", 0o755)}, ErrDamaged},
		{"a link", []entry{symlink("a", "b")}, ErrDamaged},
		{"nothing", nil, ErrDamaged},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := Open(t.Context(), "erofs", filepath.Join(scratch(t), "s"))
			if err != nil {
				t.Fatal(err)
			}
			id := digest.FromString("another")
			if err := d.AddLayer(t.Context(), id, bytes.NewReader(archive(t, tt.entries...)), nil); err != nil {
				t.Fatal(err)
			}
			if err := d.VerifyLayer(t.Context(), id); !errors.Is(err, tt.want) {
				t.Errorf("VerifyLayer = %v", err)
			}
			if d.HasLayer(id) != (tt.want == nil) {
				t.Errorf("it is there: %v", d.HasLayer(id))
			}
		})
	}
}

// Write implements io.Writer.
func (f failing) Write([]byte) (int, error) { return 0, f.err }

// TestArchiveOfBefore: a layer without a skeleton stays good, but for its archive.
func TestArchiveOfBefore(t *testing.T) {
	top := scratch(t)
	d, err := Open(t.Context(), "erofs", top)
	if err != nil {
		t.Fatal(err)
	}
	id := add(t, d, file("f", "old"))
	name, err := layerName(id)
	if err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(top, "layers", name, "layer.json")
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	before, _, found := strings.Cut(string(text), `,"skeletonCRC32C"`)
	if !found {
		t.Fatalf("%s", text)
	}
	if err := errors.Join(os.WriteFile(record, []byte(before+"}"), 0o600), os.Remove(filepath.Join(top, "layers", name, skeletonFile))); err != nil {
		t.Fatal(err)
	}
	if err := d.VerifyLayer(t.Context(), id); err != nil {
		t.Error(err)
	}
	if err := d.Archive(t.Context(), id, &bytes.Buffer{}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("Archive = %v", err)
	}
	if got, err := os.ReadFile(mounted(t, d, "c1", id) + "/f"); err != nil || string(got) != "old" {
		t.Errorf("%q, %v", got, err)
	}
}
