package imageservice

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/imageservice/registry"
	"github.com/berthd/berth/imageservice/registry/registrytest"
	"github.com/berthd/berth/snapshot"
)

// TestOverlay goes through an image's life on the real driver and the real kernel, as root.
func TestOverlay(t *testing.T) {
	if testing.Short() {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	driver, err := snapshot.Open(t.Context(), "overlay", filepath.Join(dir, "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	reg := registrytest.New()
	defer reg.Close()
	o := Options{Root: filepath.Join(dir, "images"), Layers: driver}
	s, err := open(t.Context(), o, registry.New(quickly))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Close() }()

	base := registrytest.GzipLayer(registrytest.Tar("etc/motd", "base", "etc/gone", "x"))
	bad := registrytest.GzipLayer(registrytest.Tar("evil", "evil"))
	reg.AddImage("app", "v1", []registrytest.Layer{base, bad}, nil)
	name := PullRequest{Image: reg.Host() + "/app:v1"}
	blob := append([]byte(nil), bad.Blob...)
	blob[len(blob)-6] ^= 1 // the checksum: found at the very end
	reg.PutBlob(digest.FromBytes(bad.Blob), blob)
	if _, err := s.Pull(t.Context(), name); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("corrupt: %v", err)
	}
	if driver.HasLayer(digest.FromBytes(bad.Tar)) || len(s.List()) != 0 {
		t.Fatal("a corrupt layer was kept")
	}
	top := registrytest.GzipLayer(registrytest.Tar("etc/.wh.gone", "", "etc/motd", "top"))
	reg.AddImage("app", "v1", []registrytest.Layer{base, top}, nil)
	img, err := s.Pull(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}

	root := filepath.Join(dir, "rootfs")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	mounts, err := driver.Prepare(t.Context(), "c1", img.DiffIDs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(snapshot.Unmount(root), driver.Remove(context.WithoutCancel(t.Context()), "c1")); err != nil {
			t.Error(err)
		}
	})
	if err := snapshot.MountAll(mounts, root); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(root, "etc/motd")); err != nil || string(got) != "top" {
		t.Errorf("motd: %q, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(root, "etc/gone")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file below a whiteout: %v", err)
	}

	s.Close()
	if s, err = open(t.Context(), o, registry.New(quickly)); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), img.ID.String()); err != nil { // the container runs on
		t.Fatal(err)
	}
	if !driver.HasLayer(img.DiffIDs[0]) || len(s.List()) != 0 {
		t.Error("layers of a container went, or the image stayed")
	}
	if err := snapshot.Unmount(root); err != nil {
		t.Fatal(err)
	}
	if err := driver.Remove(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if layers, err := driver.ListLayers(t.Context()); err != nil || len(layers) != 0 {
		t.Errorf("layers %v stay, %v", layers, err)
	}
	s.background.Wait()
	if u, _ := s.Usage(t.Context()); u.Bytes != 0 || u.Inodes != 0 {
		t.Errorf("usage %+v", u)
	}
}
