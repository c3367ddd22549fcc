package registry_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/test/bench/registry"
)

// TestMain lets Start run this program as a registry.
func TestMain(m *testing.M) {
	registry.Main()
	os.Exit(m.Run())
}

// layout writes an image layout with a manifest, tagged "one", and a blob.
func layout(t *testing.T) (dir string, manifest, blob digest.Digest) {
	t.Helper()
	dir = t.TempDir()
	put := func(text string) digest.Digest {
		d := digest.FromString(text)
		path := filepath.Join(dir, "blobs", "sha256", d.Encoded())
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return d
	}
	manifest, blob = put("{}"), put(strings.Repeat("0123456789", 1000))
	index, err := json.Marshal(ocispec.Index{Manifests: []ocispec.Descriptor{{
		MediaType: ocispec.MediaTypeImageManifest, Digest: manifest, Size: 2, Annotations: map[string]string{ocispec.AnnotationRefName: "one"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "index.json"), index, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, manifest, blob
}

// TestProcess asks a registry of another process for all that a pull needs, and for its counts.
func TestProcess(t *testing.T) {
	dir, manifest, blob := layout(t)
	p, err := registry.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method, path, ranged string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.Addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if ranged != "" {
			req.Header.Set("Range", ranged)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	for _, tt := range []struct {
		method, path, ranged string
		status, length       int
	}{
		{"GET", "/v2/", "", 200, 0},
		{"HEAD", "/v2/a/b/manifests/one", "", 200, 0},
		{"GET", "/v2/a/b/manifests/one", "", 200, 2},
		{"GET", "/v2/a/b/manifests/" + manifest.String(), "", 200, 2},
		{"GET", "/v2/a/b/manifests/other", "", 404, -1},
		{"GET", "/v2/a/b/blobs/" + blob.String(), "", 200, 10_000},
		{"GET", "/v2/a/b/blobs/" + blob.String(), "bytes=100-199", 206, 100},
		{"HEAD", "/v2/a/b/blobs/" + blob.String(), "", 200, 0},
		{"GET", "/v2/a/b/blobs/" + digest.FromString("no").String(), "", 404, -1},
		{"GET", "/v2/a/b/blobs/sha256:../../index.json", "", 404, -1},
		{"PUT", "/v2/a/b/manifests/one", "", 404, -1},
	} {
		resp, body := ask(tt.method, tt.path, tt.ranged)
		if resp.StatusCode != tt.status || tt.length >= 0 && len(body) != tt.length {
			t.Errorf("%s %s %s: %s, %d bytes, want %d, %d", tt.method, tt.path, tt.ranged, resp.Status, len(body), tt.status, tt.length)
		}
		if strings.Contains(tt.path, "/manifests/") && tt.status == 200 && resp.Header.Get("Docker-Content-Digest") != manifest.String() {
			t.Errorf("%s %s: digest %q", tt.method, tt.path, resp.Header.Get("Docker-Content-Digest"))
		}
	}
	counts, err := p.TakeCounts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c := counts[blob]; c.Requests != 2 || c.Bytes != 10_100 || c.First.IsZero() || c.Last.Before(c.First) {
		t.Errorf("blob: %+v, want 2 requests and 10100 bytes", c)
	}
	if c := counts[manifest]; c.Requests != 2 || c.Bytes != 4 {
		t.Errorf("manifest: %+v, want 2 requests and 4 bytes", c)
	}
	if counts, err := p.TakeCounts(t.Context()); err != nil || len(counts) != 0 {
		t.Errorf("afterwards: %v, %v", counts, err)
	}
	pid := p.PID()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
		t.Error("the registry lives on")
	}
}

// TestNoLayout wants a reason when there is nothing to serve.
func TestNoLayout(t *testing.T) {
	if p, err := registry.Start(filepath.Join(t.TempDir(), "nowhere")); err == nil {
		t.Error(p.Close())
		t.Error("started without a layout")
	}
}
