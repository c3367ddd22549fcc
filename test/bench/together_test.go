package bench_test

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthd/berth/test/bench"
	"github.com/berthd/berth/test/bench/bigimage"
	"github.com/berthd/berth/test/bench/registry"
	"github.com/berthd/berth/test/node"
)

// TestOneCopy has 30 pods ask for one cold image at once, for layers that are not sent before all have
// asked: the registry serves each byte of it once.
func TestOneCopy(t *testing.T) {
	if testing.Short() {
		t.Skip("long, and needs root")
	}
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	layout, err := bigimage.Build(t.Context(), repo, t.TempDir(), bigimage.Small())
	if err != nil {
		t.Fatal(err)
	}
	images, err := registry.Open(layout.Dir)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			<-asked
		}
		images.ServeHTTP(w, r)
	}))
	defer server.Close()
	f := node.Running(t, "", func(w *node.World) {
		if err := node.Lead(w.Certs, "bench.test", server.URL); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := bench.Together(t.Context(), f.Client, "bench.test/small:gzip", f.Logs, 30, func() { close(asked) }); err != nil {
		t.Fatal(err)
	}
	copies(t, layout, images)
}

// copies wants one request for each document and layer, or several that add up to one copy.
func copies(t *testing.T, layout bigimage.Layout, images *registry.Layout) {
	t.Helper()
	want, err := layout.Sizes("gzip")
	if err != nil {
		t.Fatal(err)
	}
	got := images.Counts()
	for d, size := range want {
		if got[d].Bytes != size {
			t.Errorf("%s: %d bytes in %d requests, want %d", d, got[d].Bytes, got[d].Requests, size)
		}
		delete(got, d)
	}
	for d, c := range got {
		t.Errorf("%s is not of the image: %+v", d, c)
	}
}
