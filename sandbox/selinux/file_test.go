package selinux

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	goselinux "github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"
)

const testLabel = "system_u:object_r:container_file_t:s0:c1,c2"

// labelled wants the label at path, "" for none.
func labelled(t *testing.T, path, want string) {
	t.Helper()
	got, err := goselinux.LfileLabel(path)
	if err != nil && !errors.Is(err, unix.ENODATA) {
		t.Fatal(err)
	}
	if (got == testLabel) != (want == testLabel) {
		t.Errorf("%s has the label %q, want %q", path, got, want)
	}
}

// labelsHere skips the test where files cannot be labelled: labels need root.
func labelsHere(t *testing.T, dir string) {
	t.Helper()
	probe := filepath.Join(dir, "probe")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := goselinux.LsetFileLabel(probe, testLabel); err != nil {
		t.Skipf("no labels here: %v", err)
	}
}

func mkdir(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRelabelTree: all of the tree has the label, also links, and nothing outside.
func TestRelabelTree(t *testing.T) {
	dir := t.TempDir()
	labelsHere(t, dir)
	tree, outside := filepath.Join(dir, "tree"), filepath.Join(dir, "outside")
	mkdir(t, filepath.Join(tree, "a", "b"), outside)
	file := filepath.Join(tree, "a", "b", "file")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink(outside, filepath.Join(tree, "link")), os.Symlink(tree, filepath.Join(dir, "to"))); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(tree, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Relabel(filepath.Join(dir, "to"), testLabel); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"", "a", "a/b", "a/b/file", "link", "fifo"} {
			labelled(t, filepath.Join(tree, path), testLabel)
		}
		labelled(t, outside, "")
	}
	alone := filepath.Join(dir, "alone")
	if err := os.WriteFile(alone, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Relabel(alone, testLabel); err != nil {
		t.Fatal(err)
	}
	labelled(t, alone, testLabel)
}

// TestRelabelRace: a container that has the volume swaps a folder for a link out of it
// while it is labelled.
func TestRelabelRace(t *testing.T) {
	dir := t.TempDir()
	labelsHere(t, dir)
	tree, outside := filepath.Join(dir, "tree"), filepath.Join(dir, "outside")
	folder, link := filepath.Join(tree, "x"), filepath.Join(tree, "y")
	mkdir(t, folder, outside)
	secret := filepath.Join(outside, "secret")
	if err := errors.Join(os.WriteFile(secret, nil, 0o600), os.Symlink(outside, link), os.WriteFile(filepath.Join(folder, "secret"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	done, swapped := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-done:
				swapped <- nil
				return
			default:
				if err := unix.Renameat2(unix.AT_FDCWD, folder, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE); err != nil {
					swapped <- err
					return
				}
			}
		}
	}()
	for range 3000 {
		if err := Relabel(tree, testLabel); err != nil {
			t.Error(err)
			break
		}
	}
	close(done)
	if err := <-swapped; err != nil {
		t.Fatal(err)
	}
	labelled(t, secret, "")
	labelled(t, outside, "")
}

// TestRelabelKeepsOurs: the runtime's own folders are refused also when the settings
// name them by a link.
func TestRelabelKeepsOurs(t *testing.T) {
	dir := t.TempDir()
	ours, link := filepath.Join(dir, "disk", "berth"), filepath.Join(dir, "berth")
	mkdir(t, ours)
	if err := os.Symlink(ours, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{ours, link, filepath.Dir(ours)} {
		if err := Relabel(path, testLabel, link); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
