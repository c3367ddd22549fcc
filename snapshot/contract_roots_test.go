package snapshot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func testInUse(t *testing.T, d Driver, reopen func() Driver) {
	a, b, c := add(t, d, file("a", "")), add(t, d, file("b", "")), add(t, d, file("c", ""))
	chain := []digest.Digest{a, b}
	if err := d.SealImage(t.Context(), chain); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Prepare(t.Context(), "c1", chain); err != nil {
		t.Fatal(err)
	}
	for _, d := range []Driver{d, reopen()} {
		for _, id := range chain {
			if err := d.RemoveLayer(t.Context(), id); !errors.Is(err, ErrInUse) || !d.HasLayer(id) {
				t.Errorf("RemoveLayer = %v", err)
			}
		}
		if err := d.UnsealImage(t.Context(), chain); !errors.Is(err, ErrInUse) {
			t.Errorf("UnsealImage = %v", err)
		}
		if err := d.RemoveLayer(t.Context(), c); err != nil || d.HasLayer(c) {
			t.Errorf("RemoveLayer of another = %v", err)
		}
	}
	d = reopen()
	if err := errors.Join(d.Remove(t.Context(), "c1"), d.UnsealImage(t.Context(), chain), d.RemoveLayer(t.Context(), a), d.RemoveLayer(t.Context(), b)); err != nil {
		t.Error(err)
	}
	if infos, err := d.ListLayers(t.Context()); len(infos) != 0 || err != nil {
		t.Errorf("left %v, %v", infos, err)
	}
}

func testAbsent(t *testing.T, d Driver, _ func() Driver) {
	id := digest.FromString("absent")
	if err := errors.Join(d.RemoveLayer(t.Context(), id), d.Remove(t.Context(), "absent"), d.UnsealImage(t.Context(), []digest.Digest{id})); err != nil {
		t.Error(err)
	}
	if _, err := d.Usage(t.Context(), "absent"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Usage = %v", err)
	}
	if ids, err := d.ListRoots(t.Context()); len(ids) != 0 || err != nil {
		t.Errorf("ListRoots = %v, %v", ids, err)
	}
	if err := d.SealImage(t.Context(), []digest.Digest{id}); !errors.Is(err, ErrNotFound) {
		t.Errorf("SealImage = %v", err)
	}
}

func testPrepareTwice(t *testing.T, d Driver, _ func() Driver) {
	a, b := add(t, d, file("a", "")), add(t, d, file("b", ""))
	root := mounted(t, d, "c1", a)
	if err := os.WriteFile(filepath.Join(root, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mounts, err := d.Prepare(t.Context(), "c1", []digest.Digest{a})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // still mounted, then mounted anew
		if err := MountAll(mounts, root); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(root, "mine")); err != nil {
			t.Error(err)
		}
		if err := Unmount(root); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(root, "a")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("still mounted: %v", err)
		}
	}
	if err := d.SealImage(t.Context(), []digest.Digest{b}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Prepare(t.Context(), "c1", []digest.Digest{b}); !errors.Is(err, ErrInUse) {
		t.Errorf("with other layers: %v", err)
	}
	if err := d.RemoveLayer(t.Context(), b); err != nil {
		t.Errorf("a refused snapshot holds its layer: %v", err)
	}
}

func testPrepareNeeds(t *testing.T, d Driver, _ func() Driver) {
	a := add(t, d, file("a", ""))
	chain := []digest.Digest{a}
	if _, err := d.Prepare(t.Context(), "c1", chain); !errors.Is(err, ErrNotFound) {
		t.Errorf("not sealed: %v", err)
	}
	if err := d.SealImage(t.Context(), chain); err != nil {
		t.Fatal(err)
	}
	if err := d.RemoveLayer(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Prepare(t.Context(), "c1", chain); !errors.Is(err, ErrNotFound) {
		t.Errorf("without a layer: %v", err)
	}
	if ids, _ := d.ListRoots(t.Context()); len(ids) != 0 {
		t.Errorf("left %v", ids)
	}
}

func testUsage(t *testing.T, d Driver, _ func() Driver) {
	root := mounted(t, d, "c1", add(t, d, file("base", strings.Repeat("x", 1<<20))))
	before, err := d.Usage(t.Context(), "c1")
	if err != nil || before.Bytes > 64<<10 {
		t.Fatalf("Usage = %+v, %v", before, err)
	}
	if err := os.WriteFile(filepath.Join(root, "f"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(root, "f"), filepath.Join(root, "g")); err != nil {
		t.Fatal(err)
	}
	after, err := d.Usage(t.Context(), "c1")
	if err != nil || after.Inodes != before.Inodes+1 || after.Bytes < before.Bytes+1<<20 || after.Bytes > before.Bytes+3<<19 {
		t.Errorf("Usage = %+v after %+v, %v", after, before, err)
	}
}
