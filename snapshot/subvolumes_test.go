package snapshot

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/snapshot/btrfs"
)

// openBtrfs opens a store on a new file system, as often as it is called.
func openBtrfs(t *testing.T) func() *overlay {
	t.Helper()
	dir := filepath.Join(fileSystem(t, 512<<20, "", "mkfs.btrfs", "-q"), "s")
	return func() *overlay {
		t.Helper()
		d, err := Open(t.Context(), "btrfs", dir)
		if err != nil {
			t.Fatal(err)
		}
		return d.(*overlay)
	}
}

// subvolumesOf counts the subvolumes of the file system that dir is on.
func subvolumesOf(t *testing.T, dir string) int {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "btrfs", "subvolume", "list", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.Count(string(out), "\n")
}

// TestBtrfsShares: an image takes the space of its layers, and a container none of its own.
func TestBtrfsShares(t *testing.T) {
	o := openBtrfs(t)()
	before := taken(t, o.dir)
	layer := add(t, o, file("large", strings.Repeat("x", 16<<20)), file("small", "small"))
	mounted(t, o, "c1", layer)
	root := mounted(t, o, "c2", layer)
	if more := taken(t, o.dir) - before; more > 20<<20 {
		t.Errorf("%d bytes for a layer of 16 MiB and two containers", more)
	}
	if n := subvolumesOf(t, o.dir); n != 3 {
		t.Errorf("%d subvolumes", n)
	}
	if err := os.WriteFile(filepath.Join(root, "small"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if u, err := o.Usage(t.Context(), "c2"); err != nil || u.Bytes < 1<<20 || u.Bytes > 2<<20 || u.Inodes != 2 {
		t.Errorf("usage %+v, %v", u, err)
	}
}

// TestBtrfsRemove removes a root file system whose container has made subvolumes in it,
// one of which it has made read-only.
func TestBtrfsRemove(t *testing.T) {
	o := openBtrfs(t)()
	layer := add(t, o, file("d/f", "x"))
	root := mounted(t, o, "c1", layer)
	for _, args := range []string{
		"subvolume create d/one", "subvolume create d/one/two", "subvolume snapshot d/one d/three", "property set d/one ro true",
	} {
		cmd := exec.CommandContext(t.Context(), "btrfs", strings.Fields(args)...)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", args, err, out)
		}
	}
	if err := errors.Join(Unmount(root), o.Remove(t.Context(), "c1")); err != nil {
		t.Fatal(err)
	}
	if n := subvolumesOf(t, o.dir); n != 1 {
		t.Errorf("%d subvolumes are left, with the image's", n)
	}
	if err := errors.Join(o.UnsealImage(t.Context(), []digest.Digest{layer}), o.RemoveLayer(t.Context(), layer)); err != nil {
		t.Error(err)
	}
	if n := subvolumesOf(t, o.dir); n != 0 {
		t.Errorf("%d subvolumes are left", n)
	}
}

// TestBtrfsSweep removes subvolumes that a crash has left half-made.
func TestBtrfsSweep(t *testing.T) {
	open := openBtrfs(t)
	o := open()
	for _, dir := range []string{"tmp/half", "tmp/probe-1", "trash/old"} {
		if err := errors.Join(os.Mkdir(o.path(dir), 0o700), btrfs.Create(o.path(dir, "fs"))); err != nil {
			t.Fatal(err)
		}
	}
	o = open()
	o.sweeping.Wait()
	if n := subvolumesOf(t, o.dir); n != 0 {
		t.Errorf("%d subvolumes are left", n)
	}
}

// TestBtrfsDamage: a seal that is damaged, or has lost its tree, is made again, and who
// reads the old one keeps it.
func TestBtrfsDamage(t *testing.T) {
	open := openBtrfs(t)
	o := open()
	layer := add(t, o, file("f", "x"))
	seal, err := sealName([]digest.Digest{layer})
	if err != nil {
		t.Fatal(err)
	}
	old := viewed(t, o, "c1", layer)
	if err := os.WriteFile(o.path("seals", seal, imageFile), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	mounted(t, o, "c2", layer)
	if err := os.Rename(o.path("seals", seal, "fs"), o.path("tmp", "lost")); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{mounted(t, o, "c3", layer), viewed(t, o, "c4", layer), old} {
		if got, err := os.ReadFile(filepath.Join(root, "f")); err != nil || string(got) != "x" {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// TestBtrfsElsewhere: on another file system it says so.
func TestBtrfsElsewhere(t *testing.T) {
	at := fileSystem(t, 64<<20, "", "mkfs.ext4", "-q")
	if _, err := Open(t.Context(), "btrfs", filepath.Join(at, "s")); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "choose another") {
		t.Errorf("on ext4: %v", err)
	}
	o := openBtrfs(t)()
	add(t, o, file("f", "x"))
	if _, err := Open(t.Context(), "native", o.dir); !errors.Is(err, ErrInvalid) {
		t.Errorf("native on what btrfs has made: %v", err)
	}
	if d, err := Open(t.Context(), "", o.dir); err != nil || d.(*overlay).mark != driverBtrfs {
		t.Errorf("whichever: %v", err)
	}
}
