package snapshot

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// unpackers are the two ways to unpack an archive, into nothing that is kept.
var unpackers = map[string]func(t *testing.T, r io.Reader, limits Limits) error{
	"files": func(t *testing.T, r io.Reader, limits Limits) error {
		_, err := unpack(t.Context(), scratch(t), r, limits)
		return err
	},
	"tree": func(t *testing.T, r io.Reader, limits Limits) error {
		b := &blobs{overlay: &overlay{limits: limits}}
		_, err := b.fill(t.Context(), scratch(t), r)
		return err
	},
}

func TestLimits(t *testing.T) {
	deep := strings.Repeat("d/", 50)
	tests := []struct {
		name string
		data []byte
		want error
	}{
		{"entries at the limit", plain(t, []entry{file("1", ""), file("2", ""), file("3", "")}), nil},
		{"an entry too many", plain(t, []entry{file("1", ""), file("2", ""), file("3", ""), file("4", "")}), ErrTooLarge},
		{"directories that names imply", plain(t, []entry{file("a/b/1", "")}), nil},
		{"a directory too many that a name implies", plain(t, []entry{file("a/b/c/1", "")}), ErrTooLarge},
		{"many directories that names imply", plain(t, []entry{file("1/"+deep+"x", ""), file("2/"+deep+"x", "")}), ErrTooLarge},
		{"directories that links imply", plain(t, []entry{symlink("l", deep), file("l/x", "")}), ErrTooLarge},
		{"files too big", plain(t, []entry{file("1", strings.Repeat("x", 5<<10)), file("2", strings.Repeat("x", 5<<10))}), ErrTooLarge},
		{"an archive padded without end", append(plain(t, nil), make([]byte, 9<<10)...), ErrTooLarge},
	}
	for _, driver := range []string{"erofs", "overlay"} {
		d, err := Open(t.Context(), driver, filepath.Join(scratch(t), "s"), WithLimits(Limits{Entries: 3, Bytes: 8 << 10}))
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range tests {
			if err := d.AddLayer(t.Context(), digest.FromString(tt.name), bytes.NewReader(tt.data), nil); !errors.Is(err, tt.want) {
				t.Errorf("%s: %s: %v, want %v", driver, tt.name, err, tt.want)
			}
		}
	}
}

// TestTextBomb: what is kept in memory has a limit of its own, far below that of the archive.
func TestTextBomb(t *testing.T) {
	one := extended('g', 999_999) // as much as a header may have
	for name, unpack := range unpackers {
		var parts []io.Reader
		for range maxText/len(one) + 2 {
			parts = append(parts, bytes.NewReader(one))
		}
		if err := unpack(t, io.MultiReader(parts...), Limits{Entries: 1 << 20, Bytes: 1 << 40}); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWalksAreLinear counts steps, not time: an archive whose every name goes through the
// longest chain of links must be stopped by the budget.
func TestWalksAreLinear(t *testing.T) {
	entries := []entry{dir("t", 0o755)}
	long := "/" + strings.Repeat("t/../", 150) + "t"
	for i := range 30 {
		entries = append(entries, symlink(fmt.Sprintf("t/l%d", i), long+fmt.Sprintf("/l%d", i+1)))
	}
	entries = append(entries, symlink("t/l30", "/t"))
	for i := range 2000 {
		entries = append(entries, file(fmt.Sprintf("t/l%d/f%d", i%2, i), ""))
	}
	data := plain(t, entries)
	for name, unpack := range unpackers {
		err := unpack(t, bytes.NewReader(data), Limits{Entries: 1 << 20, Bytes: 1 << 30})
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "too long to follow") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMemoryIsLinear counts bytes, not time: names as deep as they may be, each in another
// directory than the one before, take no more than a multiple of their length.
func TestMemoryIsLinear(t *testing.T) {
	const n = 1000
	deep := strings.Repeat("d/", 230)
	var entries []entry
	for i := range n {
		entries = append(entries, file(fmt.Sprintf("%d/%sf%d", i%2, deep, i), ""))
	}
	data := plain(t, entries)
	for name, unpack := range unpackers {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if err := unpack(t, bytes.NewReader(data), Limits{Entries: 1 << 20, Bytes: 1 << 30}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		runtime.ReadMemStats(&after)
		if each := (after.TotalAlloc - before.TotalAlloc) / n; each > 100*uint64(len(deep)) {
			t.Errorf("%s: %d bytes for each name of %d", name, each, len(deep))
		}
	}
}

// TestSwaps unpacks while somebody swaps what is unpacked into for a link to the outside
// (CVE-2025-47290 is what happens when a path is looked at and then used).
func TestSwaps(t *testing.T) {
	top := scratch(t)
	outside, in := filepath.Join(top, "outside"), filepath.Join(top, "in")
	for _, dir := range []string{outside, filepath.Join(outside, "sub"), in} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(outside, "f0"), []byte("safe"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := describe(t, outside)
	entries := []entry{dir("d", 0o755), dir("d/sub", 0o755), dir("e", 0o755)}
	for i := range 400 { // from one parent to another, so that each is looked up
		entries = append(entries, file(fmt.Sprintf("d/f%d", i), "x"), hardlink(fmt.Sprintf("e/h%d", i), fmt.Sprintf("d/f%d", i)),
			file(fmt.Sprintf("d/sub/f%d", i), "x").xattr("user.x", "y"), symlink(fmt.Sprintf("e/s%d", i), "x"),
			dir("d/sub", 0o777), file(fmt.Sprintf("d/.wh.w%d", i), ""), entry{Header: tar.Header{Typeflag: tar.TypeFifo, Name: fmt.Sprintf("d/sub/p%d", i)}})
	}
	data := plain(t, entries)
	for round := range 10 {
		at := filepath.Join(in, fmt.Sprint(round))
		if err := errors.Join(os.Mkdir(at, 0o755), os.Symlink(outside, at+".link")); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		var swapper sync.WaitGroup
		swapper.Go(func() {
			for {
				select {
				case <-done:
					return
				default: // fails until there is one
					_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(at, "d"), unix.AT_FDCWD, at+".link", unix.RENAME_EXCHANGE)
				}
			}
		})
		_, _ = unpack(t.Context(), at, bytes.NewReader(data), Limits{Entries: 1 << 20, Bytes: 1 << 30}) // fails or not
		close(done)
		swapper.Wait()
		if after := describe(t, outside); !slices.Equal(after, before) {
			t.Fatalf("round %d: outside changed:\n%s\nbefore:\n%s", round, strings.Join(after, "\n"), strings.Join(before, "\n"))
		}
	}
}

// TestManyTrees: an image of layers that are too much for memory together is refused.
func TestManyTrees(t *testing.T) {
	d, err := Open(t.Context(), "erofs", scratch(t))
	if err != nil {
		t.Fatal(err)
	}
	var entries []entry
	for i := range 2000 {
		entries = append(entries, file(fmt.Sprint(i), "").xattr("user.x", fmt.Sprint(i)+strings.Repeat("v", 40_000)))
	}
	layer := add(t, d, entries...)
	if err := d.SealImage(t.Context(), []digest.Digest{layer, layer}); err != nil {
		t.Error(err)
	}
	if err := d.SealImage(t.Context(), slices.Repeat([]digest.Digest{layer}, 14)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("of 14: %v", err)
	}
}

// TestChmod: neither way follows a link.
func TestChmod(t *testing.T) {
	dir := scratch(t)
	path := filepath.Join(dir, "f")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Symlink("f", filepath.Join(dir, "l"))); err != nil {
		t.Fatal(err)
	}
	d, err := openAt(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	for mode, chmod := range map[uint32]func(string, uint32) error{0o4711: d.chmod, 0o1640: d.chmodOpen} {
		if err := chmod("f", mode); err != nil {
			t.Error(err)
		}
		if a, err := d.stat("f"); err != nil || a.perm() != mode {
			t.Errorf("mode %o, %v; want %o", a.perm(), err, mode)
		}
		if err := chmod("l", 0o777); err == nil {
			t.Error("a link was followed")
		}
		if a, err := d.stat("f"); err != nil || a.perm() != mode {
			t.Errorf("by a link: mode %o, %v", a.perm(), err)
		}
		if err := chmod(".", 0o700); err != nil {
			t.Error(err)
		}
	}
}
