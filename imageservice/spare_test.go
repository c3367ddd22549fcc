package imageservice

import (
	"net/http"
	"strings"
	"testing"

	"github.com/berthd/berth/imageservice/registry/registrytest"
)

// TestSpared: what has come of an image whose pull failed stays for the next try, and goes
// when there is none.
func TestSpared(t *testing.T) {
	b := newBench(t)
	b.reopen(t, Options{ParallelLayers: 1})
	layers := layersOf("half", 2)
	b.reg.AddImage("half", "v1", layers, nil)
	blobs := 0
	b.reg.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		if blobs++; blobs <= 2 { // the configuration and a layer
			return false
		}
		registrytest.Fail(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown")
		return true
	})
	if _, err := b.Pull(t.Context(), PullRequest{Image: b.name("half:v1")}); err == nil {
		t.Fatal("pulled")
	}
	for _, want := range []int{1, 0} {
		if err := b.Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n, _, _ := b.fake.count(); n != want {
			t.Errorf("%d layers, not %d", n, want)
		}
		b.later()
	}
}
