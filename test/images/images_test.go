package images_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthd/berth/test/images"
)

// TestServe asks the registry for a name of each form that the images take.
func TestServe(t *testing.T) {
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	r, err := images.Serve(t.Context(), repo)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for name, media := range map[string]string{
		"e2e-test-images/busybox/manifests/1.29-2":                   "application/vnd.oci.image.index.v1+json",
		"e2e-test-images/nginx/manifests/1.14-2":                     "application/vnd.docker.distribution.manifest.v2+json",
		"library/web/manifests/latest":                               "application/vnd.oci.image.manifest.v1+json",
		"k8s-staging-cri-tools/test-image-tag/manifests/all":         "application/vnd.oci.image.manifest.v1+json",
		"k8s-staging-cri-tools/test-image-tags/manifests/3":          "application/vnd.oci.image.manifest.v1+json",
		"k8s-staging-cri-tools/hostnet-nginx-amd64/manifests/latest": "application/vnd.oci.image.manifest.v1+json",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.Addr+"/v2/"+name, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", media)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var m struct{ MediaType string }
		if err := json.NewDecoder(resp.Body).Decode(&m); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		resp.Body.Close()
		if m.MediaType != media {
			t.Errorf("%s is %q (%s), want %q", name, m.MediaType, resp.Status, media)
		}
	}
	certs := t.TempDir()
	if err := r.WriteCerts(certs, false); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(certs, "registry.k8s.io", "hosts.toml"))
	if err != nil || !strings.Contains(string(text), r.Addr) {
		t.Errorf("hosts.toml: %s, %v", text, err)
	}
}
