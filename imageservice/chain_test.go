package imageservice

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/imageservice/registry"
	"github.com/berthd/berth/imageservice/registry/registrytest"
	"github.com/berthd/berth/snapshot"
	"github.com/berthd/berth/snapshot/proxy/proxytest"
)

// TestChain goes through the life of images whose layers another process keeps, and has
// some of without their being fetched; never what is an artifact's.
func TestChain(t *testing.T) {
	if testing.Short() {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	p := proxytest.New(t.TempDir())
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	driver, err := snapshot.OpenProxied(t.Context(), "lazy", p.Address(), filepath.Join(dir, "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	defer driver.Close()
	reg := registrytest.New()
	defer reg.Close()
	s, err := open(t.Context(), Options{Root: filepath.Join(dir, "images"), Layers: driver}, registry.New(quickly))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()

	lazy, top := registrytest.GzipLayer(registrytest.Tar("lazy", "x")), registrytest.GzipLayer(registrytest.Tar("top", "x"))
	p.Claim(digest.FromBytes(lazy.Blob).String(), func(string) error { return nil })
	p.Claim(digest.FromString("file").String(), func(string) error { return nil })
	lazy.MediaType = mediaTypeNydusBlob // which nobody else could unpack
	reg.AddImage("app", "v1", []registrytest.Layer{lazy, top}, nil)
	reg.AddImage("unknown", "v1", []registrytest.Layer{{Tar: []byte("chunks"), MediaType: mediaTypeNydusBlob}, top}, nil)
	reg.AddArtifact("model", "v1", "application/x-model", []registrytest.File{{Title: "f", Data: []byte("file")}}, nil)

	blob := append([]byte(nil), top.Blob...)
	blob[4] ^= 1 // the time in gzip's header: only the digest shows it
	reg.PutBlob(digest.FromBytes(top.Blob), blob)
	if _, err := s.Pull(t.Context(), PullRequest{Image: reg.Host() + "/app:v1"}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("corrupt: %v", err)
	}
	reg.PutBlob(digest.FromBytes(top.Blob), top.Blob)
	if _, err := s.Pull(t.Context(), PullRequest{Image: reg.Host() + "/unknown:v1"}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a layer of nydus's that the proxy does not take: %v", err)
	}
	if got := reg.Requests(digest.FromString("chunks").Encoded()); len(got) > 0 {
		t.Errorf("it was fetched: %v", got)
	}
	var pulled []Image
	for _, name := range []string{"/app:v1", "/model:v1"} {
		img, err := s.Pull(t.Context(), PullRequest{Image: reg.Host() + name})
		if err != nil {
			t.Fatal(err)
		}
		pulled = append(pulled, img)
	}
	for what, want := range map[string]bool{string(lazy.Blob): false, string(top.Blob): true, "file": true} {
		if got := len(reg.Requests(digest.FromString(what).Encoded())) > 0; got != want {
			t.Errorf("%.10q was asked for: %v, want %v", what, got, want)
		}
	}
	mounts, err := driver.View(t.Context(), "c1", pulled[1].DiffIDs)
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "view")
	if err := snapshot.MountAll(mounts, at); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(at, "f"))
	if err != nil || string(got) != "file" {
		t.Errorf("the artifact's file: %q, %v", got, err)
	}
	if err := errors.Join(snapshot.Unmount(at), driver.Remove(t.Context(), "c1")); err != nil {
		t.Error(err)
	}
	for _, img := range pulled {
		if err := s.Remove(t.Context(), img.ID.String()); err != nil {
			t.Error(err)
		}
	}
	if left := p.Names("berth/"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if calls := strings.Join(p.Calls(), "\n"); strings.Count(calls, "Commit") != 2 {
		t.Errorf("calls:\n%s", calls)
	}
}
