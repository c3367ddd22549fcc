package snapshot

import (
	"errors"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"
)

// flip changes one byte in the middle of a file.
func flip(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 0x40
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestDamage: an image whose tree the disk has changed is made again of its layers, and
// not when a layer's own tree is damaged.
func TestDamage(t *testing.T) {
	d, err := Open(t.Context(), "erofs", scratch(t))
	if err != nil {
		t.Fatal(err)
	}
	o := d.(*overlay)
	layers := []digest.Digest{add(t, d, file("f", "first"), file("g", "")), add(t, d, file("f", "second"))}
	for _, l := range layers {
		name, err := layerName(l)
		if err != nil {
			t.Fatal(err)
		}
		rec, err := o.readLayer(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(checkSum(t.Context(), o.path("layers", name, dataFile), rec.Data), checkSum(t.Context(), o.path("layers", name, treeFile), rec.Tree)); err != nil {
			t.Error(err)
		}
	}
	seal, err := sealName(layers)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.SealImage(t.Context(), layers); err != nil {
		t.Fatal(err)
	}
	flip(t, o.path("seals", seal, imageFile))
	root := mounted(t, d, "c1", layers...)
	if got, err := os.ReadFile(root + "/f"); err != nil || string(got) != "second" {
		t.Errorf("%q, %v", got, err)
	}
	if err := Unmount(root); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	name, err := layerName(layers[0])
	if err != nil {
		t.Fatal(err)
	}
	flip(t, o.path("layers", name, treeFile))
	flip(t, o.path("seals", seal, imageFile))
	if _, err := d.Prepare(t.Context(), "c1", layers); !errors.Is(err, ErrDamaged) {
		t.Errorf("with a damaged layer: %v", err)
	}
	if found, err := os.ReadDir(o.path(mountsDir)); err != nil || len(found) > 0 {
		t.Errorf("mounted: %v, %v", found, err)
	}
}
