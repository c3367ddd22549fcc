package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
)

// manyLayers is a store of files that has a sealed image of n layers.
func manyLayers(t testing.TB, n int) (*overlay, []digest.Digest) {
	t.Helper()
	d, err := Open(t.Context(), driverErofs, filepath.Join(scratch(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	var chain []digest.Digest
	for i := range n {
		chain = append(chain, add(t, d, file(fmt.Sprint(i), "x")))
	}
	if err := d.SealImage(t.Context(), chain); err != nil {
		t.Fatal(err)
	}
	return d.(*overlay), chain
}

// BenchmarkPrepare makes and removes a container's snapshot beside another of the image.
func BenchmarkPrepare(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprint(n, " layers"), func(b *testing.B) {
			o, chain := manyLayers(b, n)
			if _, err := o.Prepare(b.Context(), "first", chain); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := o.Prepare(b.Context(), "next", chain); err != nil {
					b.Fatal(err)
				}
				if err := o.Remove(b.Context(), "next"); err != nil {
					b.Fatal(err)
				}
			}
			if err := o.Remove(b.Context(), "first"); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// TestMountedOnceLookedAt: an image that is mounted is not looked at again for each
// container. With the last of them it is unmounted, and the next one finds the damage.
func TestMountedOnceLookedAt(t *testing.T) {
	o, chain := manyLayers(t, 2)
	if _, err := o.Prepare(t.Context(), "c1", chain); err != nil {
		t.Fatal(err)
	}
	name, err := layerName(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := flip(o.path("layers", name, "layer.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Prepare(t.Context(), "c2", chain); err != nil {
		t.Errorf("mounted, and looked at again: %v", err)
	}
	for _, id := range []string{"c1", "c2"} {
		if err := o.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := o.Prepare(t.Context(), "c1", chain); !errors.Is(err, ErrDamaged) {
		t.Errorf("damaged: %v", err)
	}
}

// TestMountedLayerGone: a layer that was put away while its image was mounted is missing.
func TestMountedLayerGone(t *testing.T) {
	o, chain := manyLayers(t, 2)
	if _, err := o.Prepare(t.Context(), "c1", chain); err != nil {
		t.Fatal(err)
	}
	name, err := layerName(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(o.path("layers", name, treeFile)); err != nil {
		t.Fatal(err)
	}
	if err := o.VerifyLayer(t.Context(), chain[0]); !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
	_, err = o.Prepare(t.Context(), "c2", chain)
	if want := fmt.Sprintf("layer %s: %v; pull the image again", chain[0], ErrNotFound); !errors.Is(err, ErrNotFound) || err.Error() != "snapshot c2: "+want {
		t.Errorf("without the layer: %v, want %s", err, want)
	}
	if err := o.Remove(t.Context(), "c1"); err != nil {
		t.Error(err)
	}
}
