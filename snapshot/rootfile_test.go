package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unpackTest unpacks entries into a new directory.
func unpackTest(t *testing.T, entries ...entry) string {
	t.Helper()
	root := scratch(t)
	if _, err := unpack(t.Context(), root, bytes.NewReader(archive(t, entries...)), Limits{Entries: 1 << 10, Bytes: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestReadRootFile(t *testing.T) {
	root := unpackTest(t,
		file("etc/passwd", "root:x:0:0\n"), file("etc/empty", ""), file("big", strings.Repeat("x", 100)),
		symlink("etc/link", "passwd"), symlink("etc/abs", "/etc/passwd"), symlink("climb", "../../../../etc/passwd"),
		symlink("p", "/proc/self/root/etc/passwd"), symlink("loop", "loop"), symlink("d", "etc"),
		entry{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o666}},
		entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: "zero", Mode: 0o666, Devmajor: 1, Devminor: 5}},
	)
	if err := os.Symlink("/proc/self/fd/0", filepath.Join(root, "magic")); err != nil {
		t.Fatal(err)
	}
	const passwd = "root:x:0:0\n"
	for _, tt := range []struct {
		path, want string
		err        error
	}{
		{"/etc/passwd", passwd, nil},
		{"etc/passwd", passwd, nil},
		{"/etc/link", passwd, nil},
		{"/etc/abs", passwd, nil},
		{"/d/passwd", passwd, nil},
		{"/climb", passwd, nil},
		{"/../../etc/passwd", passwd, nil},
		{"/etc/empty", "", nil},
		{"/etc/shadow", "", fs.ErrNotExist},
		{"/p", "", fs.ErrNotExist},
		{"/magic", "", fs.ErrNotExist},
		{"/etc", "", ErrNotRegular},
		{"/fifo", "", ErrNotRegular},
		{"/zero", "", ErrNotRegular},
		{"/big", "", ErrTooLarge},
		{"", "", ErrInvalid},
	} {
		got, err := ReadRootFile(root, tt.path, 99)
		if !errors.Is(err, tt.err) || string(got) != tt.want {
			t.Errorf("%q: %q, %v; want %q, %v", tt.path, got, err, tt.want, tt.err)
		}
	}
	if _, err := ReadRootFile(root, "/loop", 99); err == nil {
		t.Error("a loop was read")
	}
	if got, err := ReadRootFile(root, "/big", 100); err != nil || len(got) != 100 {
		t.Errorf("at the limit: %d, %v", len(got), err)
	}
	// A real root, where the /proc link would work.
	if err := os.Symlink("/proc/self/environ", filepath.Join(root, "environ")); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadRootFile(root, "/environ", 1<<20); err == nil {
		t.Errorf("left the root: %q", got)
	}
}

func TestCopyTree(t *testing.T) {
	root := unpackTest(t,
		dir("data", 0o2770).with(func(h *tar.Header) { h.Uid = 999; h.Gid = 998 }).xattr("user.note", "top"),
		file("data/f", "content").with(func(h *tar.Header) { h.Mode = 0o4711; h.Uid = 7 }).xattr("user.note", "f"),
		dir("data/sub", 0o700), hardlink("data/sub/g", "data/f"), symlink("data/out", "/etc/passwd"), symlink("data/up", "../../.."),
		entry{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "data/fifo", Mode: 0o600}},
		file("data/big", strings.Repeat("\x00", 1<<20)+"end"),
		symlink("alias", "/data"), symlink("climb", "../../../../data"), symlink("etc", "/proc/self/root/etc"), file("file", ""),
	)
	want := describe(t, filepath.Join(root, "data"))
	for _, path := range []string{"/data", "data/", "/alias", "/climb", "/../../data"} {
		dest := filepath.Join(scratch(t), "dest")
		for range 2 { // a second call finishes what a first one left
			if err := CopyTree(t.Context(), root, path, dest); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			same(t, describe(t, dest), slices.Clone(want))
		}
	}
	for _, path := range []string{"/absent", "/data/absent/x", "/file", "/file/x", "/etc", "/../../../etc", "/data/up/etc", "/data/out"} {
		dest := filepath.Join(scratch(t), "dest")
		if err := CopyTree(t.Context(), root, path, dest); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := os.Lstat(dest); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: made something", path)
		}
	}
	if err := CopyTree(t.Context(), filepath.Join(root, "no-root"), "/data", filepath.Join(scratch(t), "dest")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a root: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := CopyTree(ended, root, "/data", filepath.Join(scratch(t), "dest")); !errors.Is(err, context.Canceled) {
		t.Errorf("without a caller: %v", err)
	}
}
