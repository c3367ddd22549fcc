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
		if data, err := os.ReadFile(filepath.Join(dir, driverFile)); err != nil || strings.TrimSpace(string(data)) != want {
			t.Errorf("driver %q: on record is %q (%v), want %q", driver, data, err, want)
		}
		return d
	}
	on("overlay", "overlay")
	d := on("", "erofs") // it was empty, and this kernel has EROFS
	layer := add(t, d, file("f", "x"))
	on("", "erofs")
	on("erofs", "erofs")
	if _, err := open("overlay"); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "remove all pods and images") {
		t.Errorf("overlay on a store of erofs: %v", err)
	}
	if !d.HasLayer(layer) {
		t.Error("a refused driver has taken a layer away")
	}
	if err := d.RemoveLayer(t.Context(), layer); err != nil {
		t.Fatal(err)
	}
	d = on("overlay", "overlay")
	add(t, d, file("f", "x"))
	if err := os.Remove(filepath.Join(dir, driverFile)); err != nil { // as before there were two
		t.Fatal(err)
	}
	on("", "overlay")
	if err := os.WriteFile(filepath.Join(dir, driverFile), []byte("zfs"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(""); !errors.Is(err, ErrInvalid) {
		t.Errorf("with another's word on record: %v", err)
	}
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
	if err := o.format.open(t.Context(), seal); err != nil { // and killed before the container was on record
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
