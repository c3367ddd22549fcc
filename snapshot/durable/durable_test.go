package durable

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestWrite(t *testing.T) {
	for name, write := range map[string]func(string, []byte, fs.FileMode) error{"WriteFile": WriteFile, "Replace": Replace} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "f")
			for i, perm := range []fs.FileMode{0o600, 0o666} { // the second beyond the umask
				data := strings.Repeat("x", i*10)
				if err := write(path, []byte(data), perm); err != nil {
					t.Fatal(err)
				}
				got, err := os.ReadFile(path)
				info, _ := os.Stat(path)
				if err != nil || string(got) != data || info.Mode() != perm {
					t.Errorf("%q, %v, %v", got, info.Mode(), err)
				}
			}
			if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := write(filepath.Join(dir, "d"), nil, 0o600); err == nil {
				t.Error("wrote over a directory")
			}
			if err := write(filepath.Join(dir, "absent/f"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("without a directory: %v", err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, tmpPrefix+"*")); len(left) != 0 {
				t.Errorf("a failure left %v", left)
			}
		})
	}
}

func TestRemove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Remove(path); err != nil {
			t.Error(err)
		}
	}
	if err := Remove(filepath.Join(path, "x/y")); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("still there")
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"keep", tmpPrefix + "1", tmpPrefix + "2"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, tmpPrefix+"dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(Sweep(dir), Sweep(filepath.Join(dir, "absent"))); err != nil {
		t.Error(err)
	}
	left, _ := os.ReadDir(dir)
	if len(left) != 2 || left[0].Name() != tmpPrefix+"dir" || left[1].Name() != "keep" {
		t.Errorf("left %v", left)
	}
}

func TestSyncTree(t *testing.T) {
	dir := t.TempDir()
	for i := range 40 {
		sub := filepath.Join(dir, fmt.Sprint(i%7), "sub")
		if err := os.MkdirAll(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), []byte("x"), 0); err != nil {
			t.Fatal(err)
		}
	}
	// What must not be opened: a FIFO would block, a link would lead out.
	if err := errors.Join(syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600), os.Symlink("absent", filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	if err := SyncTree(t.Context(), dir); err != nil {
		t.Error(err)
	}
	if err := SyncTree(t.Context(), filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := SyncTree(ended, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("without a caller: %v", err)
	}
}

func TestSyncFiles(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "a/b"), 0o700), os.WriteFile(filepath.Join(dir, "a/b/f"), []byte("x"), 0o600),
		syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600), os.Symlink("a", filepath.Join(dir, "link")), os.Symlink("/proc/kmsg", filepath.Join(dir, "out"))); err != nil {
		t.Fatal(err)
	}
	if err := SyncFiles(t.Context(), dir, []string{"a/b/f", "a/b", "a", ".", "absent", "a/b/f/x", "fifo", "link", "link/b", "out"}); err != nil {
		t.Error(err)
	}
	if err := SyncFiles(t.Context(), dir, []string{"../x"}); err == nil {
		t.Error("a path that leads out")
	}
	if err := SyncFiles(t.Context(), filepath.Join(dir, "absent"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := SyncFiles(ended, dir, []string{"a"}); !errors.Is(err, context.Canceled) {
		t.Errorf("without a caller: %v", err)
	}
}
