package snapshot

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func openNative(t *testing.T, dir string) *overlay {
	t.Helper()
	d, err := Open(t.Context(), "native", dir)
	if err != nil {
		t.Fatal(err)
	}
	return d.(*overlay)
}

// fileSystem is a new one in a file, mounted until the test ends.
func fileSystem(t *testing.T, size int64, options string, mkfs ...string) string {
	t.Helper()
	top := scratch(t)
	image, at := filepath.Join(top, "image"), filepath.Join(top, "fs")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size), os.Mkdir(at, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{append(mkfs, image), {"mount", "-o", "loop" + options, image, at}} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() {
		if err := Unmount(at); err != nil {
			t.Error(err)
		}
	})
	return at
}

// taken is how many bytes of the file system at dir are, once all is written.
func taken(t *testing.T, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := errors.Join(unix.Syncfs(int(f.Fd())), unix.Statfs(dir, &st)); err != nil {
		t.Fatal(err)
	}
	return int64(st.Blocks-st.Bfree) * st.Bsize
}

// TestNativeOnOverlay: where overlayfs cannot be, on itself, the driver does all the same.
func TestNativeOnOverlay(t *testing.T) {
	top := scratch(t)
	at := filepath.Join(top, "merged")
	for _, dir := range []string{"lower", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m := Mount{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + top + "/lower", "upperdir=" + top + "/upper", "workdir=" + top + "/work"}}
	if err := MountAll([]Mount{m}, at); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Unmount(at); err != nil {
			t.Error(err)
		}
	})
	if _, err := Open(t.Context(), "overlay", filepath.Join(at, "o")); !errors.Is(err, ErrUnsupported) {
		t.Errorf("overlay on overlay: %v", err)
	}
	d := openNative(t, filepath.Join(at, "n"))
	testStack(t, d, nil)
}

// TestNativeView reads an image from a tree of its own, which goes with its last reader,
// if need be at the next start.
func TestNativeView(t *testing.T) {
	dir := filepath.Join(scratch(t), "s")
	o := openNative(t, dir)
	base, top := add(t, o, file("d/low", "low"), file("gone", "x")), add(t, o, file(".wh.gone", ""))
	at := viewed(t, o, "c1", base, top)
	if got, err := os.ReadFile(filepath.Join(at, "d/low")); err != nil || string(got) != "low" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := os.Lstat(filepath.Join(at, "gone")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that the top layer takes away: %v", err)
	}
	if err := os.WriteFile(filepath.Join(at, "new"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Errorf("written: %v", err)
	}
	viewed(t, o, "c2", base, top)
	trees := func(want int) {
		t.Helper()
		if found, err := os.ReadDir(o.path(treesDir)); err != nil || len(found) != want {
			t.Errorf("%d trees (%v), want %d", len(found), err, want)
		}
	}
	trees(1)
	if err := os.Mkdir(o.path(treesDir, "left"), 0o700); err != nil { // by a crash
		t.Fatal(err)
	}
	o = openNative(t, dir)
	trees(1)
	for i, id := range []string{"c1", "c2"} {
		if err := o.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		trees(1 - i)
	}
}

// TestNativeReflinks: on a file system that can, a root file system takes no space of its own.
func TestNativeReflinks(t *testing.T) {
	at := fileSystem(t, 512<<20, "", "mkfs.xfs", "-q", "-m", "reflink=1")
	o := openNative(t, filepath.Join(at, "s"))
	layer := add(t, o, file("large", strings.Repeat("x", 16<<20)), file("small", "small"))
	before := taken(t, at)
	root := mounted(t, o, "c1", layer)
	if more := taken(t, at) - before; more > 4<<20 {
		t.Errorf("%d bytes more for a root file system over 16 MiB", more)
	}
	if got, err := os.ReadFile(filepath.Join(root, "small")); err != nil || string(got) != "small" {
		t.Errorf("%q, %v", got, err)
	}
	if fi, err := os.Stat(filepath.Join(root, "large")); err != nil || fi.Size() != 16<<20 {
		t.Errorf("%v, %v", fi, err)
	}
}

// TestNativeUsage counts what is written, and nothing of the image.
func TestNativeUsage(t *testing.T) {
	o := openNative(t, filepath.Join(scratch(t), "s"))
	root := mounted(t, o, "c1", add(t, o, dir("d", 0o755), file("d/base", strings.Repeat("x", 1<<20)), file("other", strings.Repeat("x", 1<<20))))
	count := func(bytes, inodes uint64) {
		t.Helper()
		u, err := o.Usage(t.Context(), "c1")
		if err != nil || u.Inodes != inodes || u.Bytes < bytes || u.Bytes > bytes+128<<10 {
			t.Errorf("%+v, %v; want %d bytes in %d inodes", u, err, bytes, inodes)
		}
	}
	count(0, 1)
	if err := os.Chmod(filepath.Join(root, "d/base"), 0o600); err != nil { // as if copied up
		t.Fatal(err)
	}
	count(1<<20, 2)
	if err := os.WriteFile(filepath.Join(root, "d/new"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	count(2<<20, 4)
}

// TestNativeDamage: a sealed image that is damaged is made again; who reads a tree of it
// keeps that, and others get a new one.
func TestNativeDamage(t *testing.T) {
	dir := filepath.Join(scratch(t), "s")
	o := openNative(t, dir)
	layer := add(t, o, file("f", "x"))
	old := viewed(t, o, "c1", layer)
	seal, err := sealName([]digest.Digest{layer})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.path("seals", seal, imageFile), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{mounted(t, o, "c2", layer), viewed(t, o, "c3", layer), old} {
		if got, err := os.ReadFile(filepath.Join(root, "f")); err != nil || string(got) != "x" {
			t.Errorf("%q, %v", got, err)
		}
	}
	trees := func(want int) {
		t.Helper()
		if found, err := os.ReadDir(o.path(treesDir)); err != nil || len(found) != want {
			t.Errorf("%d trees (%v), want %d", len(found), err, want)
		}
	}
	o = openNative(t, dir)
	trees(2)
	for _, id := range []string{"c1", "c3"} {
		if err := o.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	trees(2) // until the last container of the image has gone
	if err := o.Remove(t.Context(), "c2"); err != nil {
		t.Fatal(err)
	}
	trees(0)
}

// A watchedContext calls look whenever it is asked whether it has ended.
type watchedContext struct {
	context.Context
	look func()
}

func (c watchedContext) Err() error {
	c.look()
	return c.Context.Err()
}

// TestNativeCloseUnlocked: whoever wants to read an image does not wait until the tree that
// somebody else has read is deleted.
func TestNativeCloseUnlocked(t *testing.T) {
	o := openNative(t, filepath.Join(scratch(t), "s"))
	chain := []digest.Digest{add(t, o, file("d/f", "x"))}
	viewed(t, o, "c1", chain...)
	locks := &o.format.(native).mounting
	looks, locked := 0, 0
	ctx := watchedContext{t.Context(), func() {
		locks.mu.Lock()
		defer locks.mu.Unlock()
		looks++
		locked += len(locks.held)
	}}
	if err := o.Remove(ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	if looks == 0 || locked > 0 {
		t.Errorf("%d of %d times the image was locked while its tree was deleted", locked, looks)
	}
	if left, err := os.ReadDir(o.trash.dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
