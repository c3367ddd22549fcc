package snapshot

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestChoice: a store keeps the driver that it was begun with until it is empty.
func TestChoice(t *testing.T) {
	dir := filepath.Join(scratch(t), "s")
	open := func(driver string) (Driver, error) { return Open(t.Context(), driver, dir) }
	on := func(driver, want string) Driver {
		t.Helper()
		d, err := open(driver)
		if err != nil {
			t.Fatal(err)
		}
		got := driverOverlay
		switch d.(*overlay).format.(type) {
		case *blobs:
			got = driverErofs
		case native:
			got = driverNative
		}
		if got != want {
			t.Errorf("driver %q: %s, not %s", driver, got, want)
		}
		return d
	}
	refused := func(driver string) {
		t.Helper()
		if _, err := open(driver); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "remove all pods and images") {
			t.Errorf("driver %q on what another has made: %v", driver, err)
		}
	}
	on("overlay", "overlay")
	d := on("", "erofs") // it is empty, and this kernel has EROFS
	layer := add(t, d, file("f", "x"))
	on("", "erofs")
	on("erofs", "erofs")
	refused("overlay")
	if !d.HasLayer(layer) {
		t.Error("a refused driver has taken a layer away")
	}
	if err := d.RemoveLayer(t.Context(), layer); err != nil {
		t.Fatal(err)
	}
	if err := d.SealImage(t.Context(), nil); err != nil { // an image without layers
		t.Fatal(err)
	}
	refused("overlay")
	if err := d.UnsealImage(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	d = on("overlay", "overlay")
	add(t, d, file("f", "x"))
	on("", "overlay")
	refused("erofs")
	refused("native")
}

// TestChoiceNative: what native has made looks like erofs's, and is not.
func TestChoiceNative(t *testing.T) {
	dir := filepath.Join(scratch(t), "s")
	d := openNative(t, dir)
	refused := func() {
		t.Helper()
		if _, err := Open(t.Context(), "erofs", dir); !errors.Is(err, ErrInvalid) {
			t.Errorf("erofs on what native has made: %v", err)
		}
		if d, err := Open(t.Context(), "", dir); err != nil || d.(*overlay).mark != driverNative {
			t.Errorf("whichever: %v", err)
		}
	}
	layer := add(t, d, file("f", "x"))
	refused()
	if err := errors.Join(d.RemoveLayer(t.Context(), layer), d.SealImage(t.Context(), nil)); err != nil {
		t.Fatal(err)
	}
	refused()
}

// TestStaleMounts: an image that is mounted, and that no container stands on, is unmounted
// at the start; one that a container stands on is not.
func TestStaleMounts(t *testing.T) {
	dir := filepath.Join(scratch(t), "s")
	d, err := Open(t.Context(), "erofs", dir)
	if err != nil {
		t.Fatal(err)
	}
	o := d.(*overlay)
	used, idle := add(t, d, file("f", "used")), add(t, d, file("f", "idle"))
	root := mounted(t, d, "c1", used)
	if err := d.SealImage(t.Context(), []digest.Digest{idle}); err != nil {
		t.Fatal(err)
	}
	seal, err := sealName([]digest.Digest{idle})
	if err != nil {
		t.Fatal(err)
	}
	if err := o.format.open(t.Context(), seal, []digest.Digest{idle}); err != nil { // and killed before the container was on record
		t.Fatal(err)
	}
	count := func(want int) {
		t.Helper()
		if found, err := os.ReadDir(o.path(mountsDir)); err != nil || len(found) != want {
			t.Errorf("%d images are mounted (%v), want %d", len(found), err, want)
		}
	}
	count(2)
	if d, err = Open(t.Context(), "erofs", dir); err != nil {
		t.Fatal(err)
	}
	count(1)
	if got, err := os.ReadFile(filepath.Join(root, "f")); err != nil || string(got) != "used" {
		t.Errorf("the container sees %q (%v)", got, err)
	}
	if err := Unmount(root); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	count(0)
}
