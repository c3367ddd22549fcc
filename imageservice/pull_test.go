package imageservice

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/imageservice/registry"
	"github.com/berthd/berth/imageservice/registry/registrytest"
)

func TestPull(t *testing.T) {
	b := newBench(t)
	archive := registrytest.Tar("etc/motd", strings.Repeat("hello ", 100_000))
	want := b.reg.AddImage("team/app", "v1", []registrytest.Layer{
		registrytest.GzipLayer(archive),
		{Tar: registrytest.Tar("z", "z"), Blob: registrytest.Zstd(registrytest.Tar("z", "z")), MediaType: ocispec.MediaTypeImageLayerZstd},
		{Tar: registrytest.Tar("p", "p")},
		{Tar: registrytest.Tar("d", "d"), Blob: registrytest.Gzip(registrytest.Tar("d", "d")), MediaType: mediaTypeDockerLayer + ".gzip"},
		{Tar: registrytest.Tar("s", "s"), Blob: registrytest.Zstd(registrytest.Tar("s", "s")), MediaType: "application/octet-stream"},
		{Tar: registrytest.Tar("w", "w"), Blob: registrytest.Gzip(registrytest.Tar("w", "w")), MediaType: ocispec.MediaTypeImageLayer}, // called plain, is not
		registrytest.GzipLayer(archive), // a layer may come twice
	}, func(c *ocispec.Image, _ *ocispec.Manifest) {
		c.Config.User, c.Config.Entrypoint, c.Config.Cmd, c.Config.WorkingDir = "1000:x", []string{"/e"}, []string{"c"}, "/w"
		c.Config.Volumes = map[string]struct{}{"/v2": {}, "/v1": {}}
		c.Config.Labels, c.Config.StopSignal = map[string]string{"a": "b"}, "SIGINT"
	})
	got := b.pull(t, "team/app:v1")
	if got.ID != want.ID || got.Size != want.Size || !reflect.DeepEqual(got.DiffIDs, want.DiffIDs) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if name := []string{b.name("team/app:v1")}; !reflect.DeepEqual(got.Tags, name) {
		t.Errorf("tags %q", got.Tags)
	}
	if name := []string{b.name("team/app@" + want.Digest.String())}; !reflect.DeepEqual(got.Digests, name) {
		t.Errorf("digests %q", got.Digests)
	}
	config := Config{User: "1000:x", Env: []string{"PATH=/bin"}, Entrypoint: []string{"/e"}, Cmd: []string{"c"}, WorkingDir: "/w",
		Volumes: []string{"/v1", "/v2"}, StopSignal: "SIGINT", Labels: map[string]string{"a": "b"}}
	if !reflect.DeepEqual(got.Config, config) || got.Platform != (Platform{"linux", runtime.GOARCH, ""}) {
		t.Errorf("config %+v on %+v", got.Config, got.Platform)
	}
	if layers, seals, added := b.fake.count(); layers != 6 || seals != 1 || added != 6 {
		t.Errorf("%d layers, %d seals, %d added", layers, seals, added)
	}
	if len(b.List()) != 1 || len(b.Progress()) != 0 {
		t.Errorf("list %v, progress %v", b.List(), b.Progress())
	}

	b.reg.Forget()
	if again := b.pull(t, "team/app:v1"); !reflect.DeepEqual(again, got) {
		t.Errorf("second pull: %+v", again)
	}
	if n := len(b.reg.Requests()); n != 1 || len(b.reg.Requests("HEAD")) != 1 {
		t.Errorf("second pull made %d requests", n)
	}
	b.reopen(t, Options{})
	if after, err := b.Get(got.ID.String()); err != nil || !reflect.DeepEqual(after, got) {
		t.Errorf("after a restart: %+v, %v", after, err)
	}
	for _, id := range []digest.Digest{want.ID} {
		if _, err := os.Stat(filepath.Join(b.root, "configs", "sha256", id.Encoded())); err != nil {
			t.Error(err)
		}
	}
}

func TestPullDockerAndEmpty(t *testing.T) {
	b := newBench(t)
	b.reg.AddImage("docker", "v1", layersOf("docker", 2), func(_ *ocispec.Image, m *ocispec.Manifest) {
		m.MediaType, m.Config.MediaType = registry.MediaTypeDockerManifest, mediaTypeDockerConfig
	})
	if img := b.pull(t, "docker:v1"); len(img.DiffIDs) != 2 {
		t.Errorf("got %+v", img)
	}
	b.reg.AddImage("empty", "latest", nil, nil)
	if img := b.pull(t, "empty"); len(img.DiffIDs) != 0 || img.Size == 0 {
		t.Errorf("got %+v", img)
	}
}

func TestPullIndex(t *testing.T) {
	b := newBench(t)
	ours := b.reg.AddImage("app", "ours", layersOf("ours", 1), nil)
	other := b.reg.AddImage("app", "other", layersOf("other", 1), nil)
	entry := func(i registrytest.Image, os, arch, variant string) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: i.Digest, Size: int64(len(i.Manifest)),
			Platform: &ocispec.Platform{OS: os, Architecture: arch, Variant: variant}}
	}
	index := func(tag, mediaType string, entries ...ocispec.Descriptor) digest.Digest {
		doc := ocispec.Index{MediaType: mediaType, Manifests: entries}
		doc.SchemaVersion = 2
		return b.reg.AddManifest("app", tag, mediaType, registrytest.JSON(doc))
	}
	foreign := entry(other, "linux", "s390x", "")
	for name, mediaType := range map[string]string{"oci": ocispec.MediaTypeImageIndex, "docker": registry.MediaTypeDockerManifestList} {
		d := index(name, mediaType, entry(other, "windows", runtime.GOARCH, ""), foreign, entry(other, "unknown", "unknown", ""),
			entry(other, "linux", runtime.GOARCH, "v3"), entry(ours, "linux", runtime.GOARCH, ""))
		img := b.pull(t, "app:"+name)
		if img.ID != ours.ID || !hasDigest(img.Digests[0], d) && !hasDigest(img.Digests[len(img.Digests)-1], d) {
			t.Errorf("%s: got %+v", name, img)
		}
	}
	inner := index("inner", ocispec.MediaTypeImageIndex, entry(ours, "linux", runtime.GOARCH, ""))
	innerDoc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: inner, Size: -1}
	innerDoc.Size = b.reg.ManifestSize("app", inner)
	index("nested", ocispec.MediaTypeImageIndex, foreign, innerDoc)
	if img := b.pull(t, "app:nested"); img.ID != ours.ID {
		t.Errorf("nested: got %+v", img)
	}
	index("none", ocispec.MediaTypeImageIndex, foreign)
	if _, err := b.Pull(t.Context(), PullRequest{Image: b.name("app:none")}); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), runtime.GOARCH) {
		t.Errorf("no platform: %v", err)
	}
	wrong := entry(ours, "linux", runtime.GOARCH, "")
	wrong.Size++
	index("size", ocispec.MediaTypeImageIndex, wrong)
	if _, err := b.Pull(t.Context(), PullRequest{Image: b.name("app:size")}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("wrong size: %v", err)
	}
}

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

func TestUnavailable(t *testing.T) {
	b := newBench(t)
	b.reg.AddImage("app", "v1", layersOf("u", 1), nil)
	for _, path := range []string{"/manifests/", "/blobs/"} {
		b.reg.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, path) {
				return false
			}
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		})
		_, err := b.Pull(t.Context(), PullRequest{Image: b.name("app:v1")})
		if !errors.Is(err, ErrUnavailable) || !strings.HasPrefix(err.Error(), "RegistryUnavailable: ") {
			t.Errorf("%s: %v", path, err)
		}
	}
	b.reg.SetFault(nil)
	b.pull(t, "app:v1")
}

func TestDriverErrorsKeepTheirCause(t *testing.T) {
	b := newBench(t)
	errFull := errors.New("no space left")
	// More than is read ahead, so that a driver that stops reading leaves some of it.
	b.reg.AddImage("app", "v1", []registrytest.Layer{{Tar: registrytest.Tar("f", strings.Repeat("x", 8<<20))}}, nil)
	for _, early := range []bool{false, true} {
		b.fake.broken, b.fake.early = errFull, early
		_, err := b.Pull(t.Context(), PullRequest{Image: b.name("app:v1")})
		if !errors.Is(err, errFull) || errors.Is(err, ErrCorrupt) {
			t.Errorf("early=%t: Pull: %v", early, err)
		}
	}
}

// TestWrongMirror has a mirror whose layer is wrong and a registry whose layer is right.
func TestWrongMirror(t *testing.T) {
	b := newBench(t)
	layers := layersOf("m", 1)
	want := b.reg.AddImage("app", "v1", layers, nil)
	mirror := registrytest.New()
	defer mirror.Close()
	blob := bytes.Clone(layers[0].Blob)
	blob[20] ^= 1
	mirror.PutBlob(digest.FromBytes(layers[0].Blob), blob)
	certs := t.TempDir()
	if err := os.Mkdir(filepath.Join(certs, b.reg.Host()), 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("[host.%q]\ncapabilities = [\"pull\"]\n", mirror.URL)
	if err := os.WriteFile(filepath.Join(certs, b.reg.Host(), "hosts.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b.reopen(t, Options{CertsDir: certs})
	if img := b.pull(t, "app:v1"); img.ID != want.ID {
		t.Errorf("got %+v", img)
	}
	if len(mirror.Requests("/blobs/"+digest.FromBytes(layers[0].Blob).String())) != 1 {
		t.Error("the mirror was not asked")
	}
}

func TestAuth(t *testing.T) {
	b := newBench(t)
	b.reg.AddImage("app", "v1", layersOf("a", 1), nil)
	b.reg.RequireBearer("me", "hunter22", "TOKEN-1234")
	for name, a := range map[string]*Auth{"nobody": nil, "wrong": {Username: "me", Password: "hunter23"}, "empty": {}, "garbage": {Auth: "hunter22!"}} {
		_, err := b.Pull(t.Context(), PullRequest{Image: b.name("app:v1"), Auth: a})
		if !errors.Is(err, ErrUnauthorized) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, a := range map[string]*Auth{"user": {Username: "me", Password: "hunter22"}, "base64": {Auth: "bWU6aHVudGVyMjI="},
		"identity": {IdentityToken: "hunter22"}, "registry token": {RegistryToken: "TOKEN-1234"}} {
		if _, err := b.Pull(t.Context(), PullRequest{Image: b.name("app:v1"), Auth: a}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// It is here now. That lets nobody in.
	if _, err := b.Pull(t.Context(), PullRequest{Image: b.name("app:v1")}); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("nobody, image present: %v", err)
	}
	a := &Auth{Username: "me", Password: "hunter22", Auth: "hunter22", IdentityToken: "hunter22", RegistryToken: "hunter22"}
	for _, s := range []string{fmt.Sprintf("%v %+v %#v %s", a, *a, a, *a), fmt.Sprintf("%+v", PullRequest{Auth: a}),
		string(registrytest.JSON(PullRequest{Auth: a})), fmt.Sprint(a.MarshalLog()), a.String()} {
		if strings.Contains(s, "hunter22") {
			t.Errorf("printed as %s", s)
		}
	}
}

func TestBadReference(t *testing.T) {
	b := newBench(t)
	for _, ref := range []string{"", "UPPER", "a b", "x@sha256:12", strings.Repeat("a", 64), "x:" + strings.Repeat("t", 200), "x@sha512:" + strings.Repeat("a", 128)} {
		if _, err := b.Pull(t.Context(), PullRequest{Image: ref}); !errors.Is(err, ErrInvalidReference) {
			t.Errorf("%q: %v", ref, err)
		}
	}
}

func TestDeadline(t *testing.T) {
	b := newBench(t)
	hang := make(chan struct{})
	b.reg.SetFault(func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
		return true
	})
	defer close(hang)
	for _, limit := range []time.Duration{1, time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		if _, err := b.Pull(ctx, PullRequest{Image: b.name("app:v1")}); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnavailable) {
			t.Errorf("Pull: %v", err)
		}
		cancel()
	}
}

// TestPullWithoutContentType: what a manifest is, it says itself, when the registry does not.
func TestPullWithoutContentType(t *testing.T) {
	b := newBench(t)
	want := b.reg.AddImage("app", "v1", layersOf("t", 1), nil)
	for name, contentType := range map[string][]string{"none": nil, "guessed": {"text/plain; charset=utf-8"}, "general": {"application/json"}} {
		b.reg.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header()["Content-Type"] = contentType
			return false
		})
		b.reg.PutManifest("app:v1", "", want.Manifest)
		b.reg.PutManifest("app:"+want.Digest.String(), "", want.Manifest)
		img, err := b.Pull(t.Context(), PullRequest{Image: b.name("app:v1")})
		if err != nil || img.ID != want.ID {
			t.Errorf("%s: %+v, %v", name, img, err)
		}
		if err := b.Remove(t.Context(), b.name("app:v1")); err != nil {
			t.Error(err)
		}
	}
}
