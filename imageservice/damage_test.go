package imageservice

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/imageservice/registry"
	"github.com/berthd/berth/imageservice/registry/registrytest"
	"github.com/berthd/berth/snapshot"
)

// A node is what kubelet has of the real drivers: images, and root file systems of them.
type node struct {
	*Service
	snapshot.Driver
	dir   string
	reg   *registrytest.Server
	image string
	base  registrytest.Layer
}

func newNode(t *testing.T, driver string) *node {
	t.Helper()
	if testing.Short() {
		t.Skip("needs root")
	}
	n := &node{dir: t.TempDir(), reg: registrytest.New()}
	t.Cleanup(n.reg.Close)
	n.base = registrytest.GzipLayer(registrytest.Tar("etc/motd", strings.Repeat("base", 3000)))
	top := registrytest.GzipLayer(registrytest.Tar("etc/issue", "top"))
	n.reg.AddImage("app", "v1", []registrytest.Layer{n.base, top}, nil)
	n.reg.AddImage("other", "v1", []registrytest.Layer{n.base, registrytest.GzipLayer(registrytest.Tar("other", "x"))}, nil)
	n.image = n.reg.Host() + "/app:v1"
	n.open(t, driver)
	t.Cleanup(func() { n.Close() })
	return n
}

func (n *node) open(t *testing.T, driver string) {
	t.Helper()
	var err error
	if n.Driver, err = snapshot.Open(t.Context(), driver, filepath.Join(n.dir, "snapshots")); err != nil {
		t.Fatal(err)
	}
	if n.Service, err = open(t.Context(), Options{Root: filepath.Join(n.dir, "images"), Layers: n.Driver}, registry.New(quickly)); err != nil {
		t.Fatal(err)
	}
}

// start does what kubelet does for a container with imagePullPolicy IfNotPresent: it pulls
// the image if it is not there, and tries again when it does not start. The container is
// gone again when it returns.
func (n *node) start(t *testing.T, image string) {
	t.Helper()
	var mounts []snapshot.Mount
	var err error
	for range 3 {
		var img Image
		if img, err = n.Get(image); errors.Is(err, ErrNotFound) {
			img, err = n.Pull(t.Context(), PullRequest{Image: image})
		}
		if err != nil {
			t.Fatal(err)
		}
		if mounts, err = n.Prepare(t.Context(), "c1", img.DiffIDs); err == nil {
			break
		}
		if !errors.Is(err, snapshot.ErrDamaged) || !strings.Contains(err.Error(), "pull the image again") {
			t.Errorf("Prepare = %v", err)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(n.dir, "rootfs")
	if err := snapshot.MountAll(mounts, root); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(root, "etc/motd")); err != nil || string(got) != strings.Repeat("base", 3000) {
		t.Errorf("motd is %.20q, %v", got, err)
	}
	if err := errors.Join(snapshot.Unmount(root), n.Driver.Remove(context.WithoutCancel(t.Context()), "c1")); err != nil {
		t.Fatal(err)
	}
}

// file is a file of the base layer, or of the image's seal.
func (n *node) file(t *testing.T, name string) string {
	t.Helper()
	at := "layers/sha256-" + digest.FromBytes(n.base.Tar).Encoded()
	if name == "image" || name == "seal.json" {
		at = "seals/*"
	}
	found, err := filepath.Glob(filepath.Join(n.dir, "snapshots", at, name))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %v, %v", name, found, err)
	}
	return found[0]
}

// TestHeals: whatever the disk does to a file of an image, the image runs again without
// anybody's doing, and no more is fetched than the damaged layer.
func TestHeals(t *testing.T) {
	flip := func(path string) error {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		data[len(data)/3] ^= 4
		return os.WriteFile(path, data, 0o600)
	}
	truncate := func(path string) error { return os.Truncate(path, 1) }
	for driver, files := range map[string][]string{"erofs": {"data", "tree", "skeleton", "layer.json", "image", "seal.json"}, "overlay": {"layer.json", "seal.json"}} {
		for _, file := range files {
			for name, damage := range map[string]func(string) error{"flip": flip, "truncate": truncate, "delete": os.Remove} {
				for _, restart := range []bool{false, true} {
					t.Run(strings.Join([]string{driver, name, file, map[bool]string{true: "while stopped"}[restart]}, " "), func(t *testing.T) {
						n := newNode(t, driver)
						n.start(t, n.image)
						n.reg.Forget()
						if restart {
							n.Close()
						}
						if err := damage(n.file(t, file)); err != nil {
							t.Fatal(err)
						}
						if restart {
							n.open(t, "")
						}
						if file == "skeleton" || file == "tree" || file == "data" && name == "flip" { // what starting a container does not read
							if err := n.VerifyLayer(t.Context(), digest.FromBytes(n.base.Tar)); !errors.Is(err, snapshot.ErrDamaged) {
								t.Errorf("VerifyLayer = %v", err)
							}
						}
						n.start(t, n.image)
						fetched := len(n.reg.Requests("GET", "/blobs/"+digest.FromBytes(n.base.Blob).String()))
						if all := len(n.reg.Requests("GET", "/blobs/sha256:")); fetched > 1 || !restart && all > 2 { // and the configuration
							t.Errorf("fetched the layer %d times, %d blobs in all", fetched, all)
						}
					})
				}
			}
		}
	}
}

// TestHealsShared: an image that comes to share a damaged layer heals it by being pulled,
// and the image that had it can be run and removed.
func TestHealsShared(t *testing.T) {
	n := newNode(t, "erofs")
	img, err := n.Pull(t.Context(), PullRequest{Image: n.image})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(n.file(t, "tree"), 100); err != nil {
		t.Fatal(err)
	}
	n.start(t, n.reg.Host()+"/other:v1")
	n.reg.Forget()
	n.start(t, n.image)
	if len(n.reg.Requests()) > 0 {
		t.Errorf("%v", n.reg.Requests())
	}
	if err := os.Truncate(n.file(t, "data"), 0); err != nil {
		t.Fatal(err)
	}
	if err := n.VerifyLayer(t.Context(), digest.FromBytes(n.base.Tar)); !errors.Is(err, snapshot.ErrDamaged) {
		t.Error(err)
	}
	if _, err := n.Get(img.ID.String()); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get without a layer: %v", err)
	}
	if err := n.Service.Remove(t.Context(), img.ID.String()); err != nil {
		t.Error(err)
	}
	if left := n.List(); len(left) != 1 || left[0].ID == img.ID {
		t.Errorf("left: %v", left)
	}
	n.start(t, n.reg.Host()+"/other:v1")
}
