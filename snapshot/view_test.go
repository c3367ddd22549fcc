package snapshot

import (
	"archive/tar"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
)

// viewed mounts a view of layers for container id.
func viewed(t *testing.T, o *overlay, id string, layers ...digest.Digest) string {
	t.Helper()
	if err := o.SealImage(t.Context(), layers); err != nil {
		t.Fatal(err)
	}
	mounts, err := o.View(t.Context(), id, layers)
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(t.TempDir(), "view")
	if err := MountAll(mounts, at); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Unmount(at); err != nil {
			t.Error(err)
		}
	})
	return at
}

// TestView reads images of one and of two layers, writes to neither, and has them
// stay until the container's snapshot is removed, also after a restart.
func TestView(t *testing.T) {
	dir := filepath.Join(scratch(t), "s")
	o := openTest(t, dir)
	base := add(t, o, file("d/low", "low"), file("gone", "x"))
	top := add(t, o, file("d/high", "high"), file(".wh.gone", ""))
	other := add(t, o, file("other", "other"))
	at := viewed(t, o, "c1", base, top)
	for name, want := range map[string]string{"d/low": "low", "d/high": "high"} {
		if got, err := os.ReadFile(filepath.Join(at, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(at, "gone")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that the top layer takes away: %v", err)
	}
	if err := os.WriteFile(filepath.Join(at, "new"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Errorf("written: %v", err)
	}
	single := viewed(t, o, "c1", other)
	if got, err := os.ReadFile(filepath.Join(single, "other")); err != nil || string(got) != "other" {
		t.Errorf("other: %q, %v", got, err)
	}
	if err := errors.Join(Unmount(at), Unmount(single)); err != nil {
		t.Fatal(err)
	}
	o = openTest(t, dir)
	for _, l := range []digest.Digest{base, top, other} {
		if err := o.RemoveLayer(t.Context(), l); !errors.Is(err, ErrInUse) {
			t.Errorf("RemoveLayer of what is viewed: %v", err)
		}
	}
	if err := o.UnsealImage(t.Context(), []digest.Digest{base, top}); !errors.Is(err, ErrInUse) {
		t.Errorf("UnsealImage of what is viewed: %v", err)
	}
	if ids, err := o.ListRoots(t.Context()); err != nil || !slices.Equal(ids, []string{"c1"}) {
		t.Errorf("ListRoots = %v, %v", ids, err)
	}
	for range 2 {
		if err := o.Remove(t.Context(), "c1"); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range []digest.Digest{base, top, other} {
		if err := o.RemoveLayer(t.Context(), l); err != nil {
			t.Errorf("RemoveLayer after Remove: %v", err)
		}
	}
	if ids, err := o.ListRoots(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("ListRoots = %v, %v", ids, err)
	}
	if _, err := o.View(t.Context(), "c2", []digest.Digest{base}); !errors.Is(err, ErrNotFound) {
		t.Errorf("View of a layer that is gone: %v", err)
	}
	if _, err := o.View(t.Context(), "../c2", nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("View for a path: %v", err)
	}
}

// TestTornView has a power cut tear a view's record: it holds nothing.
func TestTornView(t *testing.T) {
	dir := filepath.Join(scratch(t), "s")
	o := openTest(t, dir)
	layer := add(t, o, file("f", ""))
	viewed(t, o, "c1", layer)
	seal, err := sealName([]digest.Digest{layer})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.path("views", "c1", seal), []byte("{\"boot"), 0o600); err != nil {
		t.Fatal(err)
	}
	o = openTest(t, dir)
	o.sweeping.Wait()
	if err := o.RemoveLayer(t.Context(), layer); err != nil {
		t.Error(err)
	}
}

// TestBindFromRoot looks up sub paths, hostile ones among them.
func TestBindFromRoot(t *testing.T) {
	root := unpackTest(t,
		file("dir/f", "inside"), file("top", "top"), symlink("abs", "/dir"), symlink("climb", "../../../../dir/f"),
		symlink("out", "/proc/self/root/etc"), symlink("loop", "loop"),
		entry{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o666}},
		entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: "zero", Mode: 0o666, Devmajor: 1, Devminor: 5}},
	)
	for _, tt := range []struct {
		path, file, want string // file below the mount; "" = the mount is the file
		err              error
	}{
		{"dir", "f", "inside", nil},
		{"/dir/", "f", "inside", nil},
		{"abs", "f", "inside", nil},
		{"dir/f", "", "inside", nil},
		{"climb", "", "inside", nil},
		{"../../top", "", "top", nil},
		{".", "top", "top", nil},
		{"none", "", "", fs.ErrNotExist},
		{"dir/f/x", "", "", syscall.ENOTDIR},
		{"out", "", "", fs.ErrNotExist},
		{"loop", "", "", syscall.ELOOP},
		{"fifo", "", "", ErrNotRegular},
		{"zero", "", "", ErrNotRegular},
		{"", "", "", ErrInvalid},
	} {
		at := filepath.Join(scratch(t), "sub")
		err := BindFromRoot(root, tt.path, at)
		if !errors.Is(err, tt.err) {
			t.Errorf("%q: %v, want %v", tt.path, err, tt.err)
		}
		if err == nil {
			if got, err := os.ReadFile(filepath.Join(at, tt.file)); err != nil || string(got) != tt.want {
				t.Errorf("%q: %q, %v; want %q", tt.path, got, err, tt.want)
			}
		}
		if err := Unmount(at); err != nil {
			t.Error(err)
		}
	}
}

// An image without layers is an empty directory.
func TestViewOfNothing(t *testing.T) {
	at := viewed(t, openTest(t, filepath.Join(scratch(t), "s")), "c1")
	if names, err := os.ReadDir(at); err != nil || len(names) > 0 {
		t.Errorf("%v, %v", names, err)
	}
	if err := os.WriteFile(filepath.Join(at, "new"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Errorf("written: %v", err)
	}
}

// A record that cannot be read is not a torn one: its container may run, so nothing of
// it goes and no layer does.
func TestUnreadRecord(t *testing.T) {
	dir := filepath.Join(scratch(t), "s")
	o := openTest(t, dir)
	layer := add(t, o, file("f", "x"))
	if err := o.SealImage(t.Context(), []digest.Digest{layer}); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Prepare(t.Context(), "c1", []digest.Digest{layer}); err != nil {
		t.Fatal(err)
	}
	if _, err := o.View(t.Context(), "c2", []digest.Digest{layer}); err != nil {
		t.Fatal(err)
	}
	seal, err := sealName([]digest.Digest{layer})
	if err != nil {
		t.Fatal(err)
	}
	for id, record := range map[string]string{"c1": o.path("roots", "c1", "root.json"), "c2": o.path("views", "c2", seal)} {
		whole, err := os.ReadFile(record)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Remove(record), os.Symlink("/proc/self/mem", record)); err != nil { // EIO
			t.Fatal(err)
		}
		o = openTest(t, dir)
		if ids, err := o.ListRoots(t.Context()); err != nil || !slices.Contains(ids, id) {
			t.Errorf("ListRoots = %v, %v", ids, err)
		}
		if _, ok := o.users[seal][id]; !ok {
			t.Errorf("%s: its seal may go", id)
		}
		if err := o.RemoveLayer(t.Context(), layer); !errors.Is(err, ErrInUse) {
			t.Errorf("RemoveLayer: %v", err)
		}
		if err := errors.Join(os.Remove(record), os.WriteFile(record, whole, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"c1", "c2"} {
		if err := o.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
}
