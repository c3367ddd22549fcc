package imageservice

import (
	"bytes"
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/imageservice/registry/registrytest"
)

// TestPullBad has one thing wrong with an image at a time. Nothing of it may be listed afterwards,
// and the same name must work once it is right.
func TestPullBad(t *testing.T) {
	good := layersOf("bad", 2)
	tests := []struct {
		name string
		make func(*registrytest.Server)
		want error
	}{
		{"wrong bytes in a layer", func(s *registrytest.Server) {
			i := s.AddImage("app", "v1", good, nil)
			blob := bytes.Clone(good[0].Blob)
			blob[len(blob)-5] ^= 1
			s.PutBlob(digest.FromBytes(good[0].Blob), blob)
			_ = i
		}, ErrCorrupt},
		{"other layer of the same size", func(s *registrytest.Server) {
			s.AddImage("app", "v1", []registrytest.Layer{{Tar: registrytest.Tar("a", "1")}}, nil)
			s.PutBlob(digest.FromBytes(registrytest.Tar("a", "1")), registrytest.Tar("a", "2"))
		}, ErrCorrupt},
		{"other bytes that unpack to the same", func(s *registrytest.Server) {
			s.AddImage("app", "v1", good, nil)
			blob := bytes.Clone(good[0].Blob)
			blob[4] ^= 1 // of the time in gzip's header
			s.PutBlob(digest.FromBytes(good[0].Blob), blob)
		}, ErrCorrupt},
		{"something after the compressed stream", func(s *registrytest.Server) {
			l := good[0]
			l.Blob = append(bytes.Clone(l.Blob), "trailer"...)
			s.AddImage("app", "v1", []registrytest.Layer{l}, nil)
		}, ErrCorrupt},
		{"truncated gzip with the right digest", func(s *registrytest.Server) {
			l := good[0]
			l.Blob = l.Blob[:len(l.Blob)/2]
			s.AddImage("app", "v1", []registrytest.Layer{l}, nil)
		}, ErrCorrupt},
		{"diff ID of another archive", func(s *registrytest.Server) {
			s.AddImage("app", "v1", good, func(c *ocispec.Image, _ *ocispec.Manifest) { c.RootFS.DiffIDs[1] = digest.FromString("x") })
		}, ErrCorrupt},
		{"fewer diff IDs than layers", func(s *registrytest.Server) {
			s.AddImage("app", "v1", good, func(c *ocispec.Image, _ *ocispec.Manifest) { c.RootFS.DiffIDs = c.RootFS.DiffIDs[:1] })
		}, ErrCorrupt},
		{"layer size too large", func(s *registrytest.Server) {
			s.AddImage("app", "v1", good, func(_ *ocispec.Image, m *ocispec.Manifest) { m.Layers[0].Size++ })
		}, ErrCorrupt},
		{"layer size too small", func(s *registrytest.Server) {
			s.AddImage("app", "v1", good, func(_ *ocispec.Image, m *ocispec.Manifest) { m.Layers[0].Size-- })
		}, ErrCorrupt},
		{"negative size", func(s *registrytest.Server) {
			s.AddImage("app", "v1", good, func(_ *ocispec.Image, m *ocispec.Manifest) { m.Layers[0].Size = -1 })
		}, ErrCorrupt},
		{"digest that is a path", func(s *registrytest.Server) {
			s.AddImage("app", "v1", good, func(_ *ocispec.Image, m *ocispec.Manifest) { m.Layers[0].Digest = "sha256:../../etc/passwd" })
		}, ErrCorrupt},
		{"wrong configuration", func(s *registrytest.Server) {
			i := s.AddImage("app", "v1", good, nil)
			s.PutBlob(i.ID, []byte("{}"))
		}, ErrCorrupt},
		{"huge configuration", func(s *registrytest.Server) {
			s.AddImage("app", "v1", good, func(c *ocispec.Image, m *ocispec.Manifest) {
				m.Config.Digest, m.Config.Size = s.AddBlob(make([]byte, maxConfig+1)), maxConfig+1
			})
		}, ErrTooLarge},
		{"for Windows", func(s *registrytest.Server) {
			s.AddImage("app", "v1", good, func(c *ocispec.Image, _ *ocispec.Manifest) { c.OS = "windows" })
		}, ErrUnsupported},
		{"foreign layer", func(s *registrytest.Server) {
			s.AddImage("app", "v1", good, func(_ *ocispec.Image, m *ocispec.Manifest) {
				m.Layers[0].MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
			})
		}, ErrUnsupported},
		{"encrypted layer", func(s *registrytest.Server) {
			s.AddImage("app", "v1", good, func(_ *ocispec.Image, m *ocispec.Manifest) { m.Layers[0].MediaType += "+encrypted" })
		}, ErrUnsupported},
		{"layer of nydus's", func(s *registrytest.Server) {
			s.AddImage("app", "v1", good, func(_ *ocispec.Image, m *ocispec.Manifest) { m.Layers[0].MediaType = mediaTypeNydusBlob })
		}, ErrUnsupported},
		{"served as an index", func(s *registrytest.Server) {
			i := s.AddImage("app", "v1", good, nil)
			s.PutManifest("app:v1", ocispec.MediaTypeImageIndex, i.Manifest)
			s.PutManifest("app:"+i.Digest.String(), ocispec.MediaTypeImageIndex, i.Manifest)
		}, ErrCorrupt},
		{"manifest by digest is another", func(s *registrytest.Server) {
			i := s.AddImage("app", "v1", good, nil)
			s.PutManifest("app:"+i.Digest.String(), ocispec.MediaTypeImageManifest, append(bytes.Clone(i.Manifest), ' '))
		}, ErrCorrupt},
		{"schema 1", func(s *registrytest.Server) {
			s.AddManifest("app", "v1", dockerSchema1+"prettyjws", []byte(`{"schemaVersion":1,"fsLayers":[]}`))
		}, ErrUnsupported},
		{"no such tag", func(*registrytest.Server) {}, ErrNotFound},
		{"layer is absent", func(s *registrytest.Server) {
			s.AddImage("app", "v1", good, func(_ *ocispec.Image, m *ocispec.Manifest) { m.Layers[1].Digest = digest.FromString("x") })
		}, ErrNotFound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			tt.make(b.reg)
			_, err := b.Pull(t.Context(), PullRequest{Image: b.name("app:v1")})
			if !errors.Is(err, tt.want) || errors.Is(err, ErrUnavailable) {
				t.Fatalf("Pull: %v; want %v", err, tt.want)
			}
			if len(b.List()) != 0 || len(b.Progress()) != 0 {
				t.Errorf("listed: %v", b.List())
			}
			for _, l := range good {
				b.reg.AddBlob(l.Blob)
			}
			b.reg.AddImage("app", "v1", good, nil)
			b.pull(t, "app:v1")
			if err := b.Remove(t.Context(), b.name("app:v1")); err != nil {
				t.Fatal(err)
			}
			if layers, seals, _ := b.fake.count(); layers != 0 || seals != 0 {
				t.Errorf("%d layers and %d seals stay", layers, seals)
			}
		})
	}
}

func TestBomb(t *testing.T) {
	zeros := make([]byte, 20<<20)
	for name, blob := range map[string][]byte{"gzip": registrytest.Gzip(zeros), "zstd": registrytest.Zstd(zeros)} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.limit = func(compressed int64) int64 { return 1<<20 + compressed }
			b.reg.AddImage("app", "v1", []registrytest.Layer{{Tar: zeros, Blob: blob, MediaType: ocispec.MediaTypeImageLayerGzip}}, nil)
			if _, err := b.Pull(t.Context(), PullRequest{Image: b.name("app:v1")}); !errors.Is(err, ErrTooLarge) {
				t.Errorf("Pull: %v", err)
			}
		})
	}
}
