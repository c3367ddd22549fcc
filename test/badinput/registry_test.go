package badinput

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/test/node"
)

// host is the name under which the hostile registry is reached.
const host = "hostile.test"

// A hostile registry serves one image, and lies about it as a test wants.
type hostile struct {
	*httptest.Server

	mu    sync.Mutex
	image *served
}

// A served image is what a registry answers with, byte for byte.
type served struct {
	manifest []byte
	media    string
	blobs    map[digest.Digest][]byte
	status   int                                                  // of every answer, unless 0
	blob     func(w http.ResponseWriter, data []byte) (done bool) // in place of a layer's plain answer
	layers   map[digest.Digest]bool
	cuts     bool // answers end early, so that the registry may be taken for unavailable
}

// newHostile starts a registry and leads host to it in the certs.d folder.
func newHostile(t *testing.T, certs string) *hostile {
	t.Helper()
	h := &hostile{}
	h.Server = httptest.NewServer(http.HandlerFunc(h.serve))
	t.Cleanup(h.Close)
	lead(t, certs, host, h.URL)
	return h
}

// lead writes the hosts.toml that leads name to url and nowhere else.
func lead(t *testing.T, certs, name, url string) {
	t.Helper()
	if err := node.Lead(certs, name, url); err != nil {
		t.Fatal(err)
	}
}

// set says what is served from now on.
func (h *hostile) set(s *served) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.image = s
}

func (h *hostile) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	s := h.image
	h.mu.Unlock()
	path := r.URL.Path
	switch {
	case s.status != 0:
		w.WriteHeader(s.status)
	case path == "/v2/":
		w.WriteHeader(http.StatusOK)
	case strings.Contains(path, "/manifests/"):
		w.Header().Set("Content-Type", s.media)
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(s.manifest).String())
		_, _ = w.Write(s.manifest)
	case strings.Contains(path, "/blobs/"):
		d := digest.Digest(path[strings.LastIndexByte(path, '/')+1:])
		data, ok := s.blobs[d]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if s.layers[d] && s.blob != nil && s.blob(w, data) {
			return
		}
		_, _ = w.Write(data)
	default:
		http.NotFound(w, r)
	}
}

// An edit changes the config or the manifest before they are sealed.
type edit func(*ocispec.Image, *ocispec.Manifest)

// make packs tar entries as a gzip layer into an image of this platform.
func makeImage(t *testing.T, edits []edit, entries ...tar.Header) *served {
	t.Helper()
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	for _, h := range entries {
		body := ""
		if h.Typeflag == tar.TypeReg {
			body = "content\n"
		}
		if h.Typeflag == tar.TypeReg && h.Size > 0 {
			body = strings.Repeat("x", int(h.Size))
		}
		h.Size = int64(len(body))
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return makeRaw(t, edits, raw.Bytes())
}

// makeRaw packs any bytes as the layer's tar.
func makeRaw(t *testing.T, edits []edit, raw []byte) *served {
	t.Helper()
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.NoCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	layer := packed.Bytes()
	config := &ocispec.Image{
		Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(raw)}},
	}
	m := &ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Layers:    []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(layer), Size: int64(len(layer))}},
	}
	for _, e := range edits {
		e(config, m)
	}
	conf, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(conf), Size: int64(len(conf))}
	manifest, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	ld := m.Layers[0].Digest
	return &served{
		manifest: manifest, media: m.MediaType,
		blobs:  map[digest.Digest][]byte{m.Config.Digest: conf, ld: layer},
		layers: map[digest.Digest]bool{ld: true},
	}
}
