package imageservice

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/snapshot"
)

// withoutFiles runs f while no file can be opened.
func withoutFiles(t *testing.T, f func()) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}

// TestCannotRead: what keeps the documents from being read is no damage to them.
func TestCannotRead(t *testing.T) {
	b := newBench(t)
	target := b.reg.AddImage("app", "v1", layersOf("a", 1), nil).Digest
	img := b.pull(t, "app:v1")
	withoutFiles(t, func() {
		err := b.Verify(t.Context(), []Image{img}, func(v Verification) error {
			t.Errorf("%+v", v)
			return nil
		})
		if !errors.Is(err, unix.EMFILE) {
			t.Errorf("Verify: %v", err)
		}
		if id, ok, err := b.present(t.Context(), target, nil, nil); ok || !errors.Is(err, unix.EMFILE) {
			t.Errorf("present: %s, %v, %v", id, ok, err)
		}
		if img, err := b.receive(t.Context(), arrival{description: description{rec: record{image: img}}, progress: &pullProgress{}}, nil); !errors.Is(err, unix.EMFILE) {
			t.Errorf("receive: %v, %v", img, err)
		}
	})
}

// TestDamagedDocuments: each is damage, and the next pull mends it.
func TestDamagedDocuments(t *testing.T) {
	for name, spoil := range map[string]func(file string) error{
		"gone":        os.Remove,
		"changed":     func(file string) error { return os.WriteFile(file, []byte("{}"), 0o600) },
		"too large":   func(file string) error { return os.Truncate(file, 9<<20) },
		"unreadable":  func(file string) error { return errors.Join(os.Remove(file), os.Symlink("/proc/self/mem", file)) }, // EIO
		"a directory": func(file string) error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o700)) },
	} {
		b := newBench(t)
		b.reg.AddImage("app", "v1", layersOf("a", 1), nil)
		img := b.pull(t, "app:v1")
		if err := spoil(b.store.configFile(img.ID)); err != nil {
			t.Fatal(err)
		}
		var damaged []error
		if err := b.Verify(t.Context(), []Image{img}, func(v Verification) error { damaged = v.Damaged; return nil }); err != nil || len(damaged) != 1 {
			t.Errorf("%s: %v, %v", name, damaged, err)
		}
		if name != "a directory" {
			b.pull(t, "app:v1")
			if info, err := os.Lstat(b.store.configFile(img.ID)); err != nil || info.Mode().Type() != fs.FileMode(0) || b.store.verify(img.ID) != nil {
				t.Errorf("%s: not mended: %v", name, err)
			}
		}
	}
}

// TestVerifyWaitsForNoWriter: an index that is being written does not keep anybody from reading.
func TestVerifyWaitsForNoWriter(t *testing.T) {
	b := newBench(t)
	b.reg.AddImage("app", "v1", layersOf("a", 1), nil)
	img := b.pull(t, "app:v1")
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	if err := b.Verify(t.Context(), []Image{img}, func(Verification) error { return nil }); err != nil {
		t.Error(err)
	}
}

// A sealless driver's seals cannot be made.
type sealless struct{ *fakeLayers }

func (sealless) SealImage(context.Context, []digest.Digest) error {
	return fmt.Errorf("seal: %w", snapshot.ErrDamaged)
}

func TestVerifySeal(t *testing.T) {
	b := newBench(t)
	b.reg.AddImage("app", "v1", layersOf("a", 1), nil)
	img := b.pull(t, "app:v1")
	b.layers = sealless{b.fake}
	var damaged []error
	if err := b.Verify(t.Context(), []Image{img}, func(v Verification) error { damaged = v.Damaged; return nil }); err != nil || len(damaged) != 1 {
		t.Errorf("%v, %v", damaged, err)
	}
}
