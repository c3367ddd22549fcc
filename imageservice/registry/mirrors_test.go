package registry

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestMirrors(t *testing.T) {
	upstream, mirror, third := newServer(t), newServer(t), newServer(t)
	doc := []byte("doc")
	d := upstream.AddManifest("app", "v1", "", doc)
	third.AddManifest("app", "v1", "", doc)
	o := quick
	o.CertsDir = certsDir(t, "r.example", fmt.Sprintf(`
server = %q
[host.%q]
capabilities = ["pull"]
[host.%q]
`, upstream.URL, mirror.URL, third.URL))

	t.Run("a tag is not asked of a mirror that may not resolve", func(t *testing.T) {
		r := openAt(t, o, "r.example", Credential{})
		if got, err := r.Resolve(t.Context(), "v1"); err != nil || got.Digest != d {
			t.Fatalf("Resolve = %v, %v", got, err)
		}
		if n := len(mirror.Requests()) + len(upstream.Requests()); n != 0 {
			t.Errorf("%d requests to others", n)
		}
		if q := third.Requests()[0].Query; q != "ns=r.example" {
			t.Errorf("query = %q", q)
		}
	})
	t.Run("what one does not have, the next has", func(t *testing.T) {
		r := openAt(t, o, "r.example", Credential{})
		if _, _, err := r.Manifest(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		if len(mirror.Requests("GET")) != 1 || len(third.Requests("GET")) != 1 {
			t.Error("not asked in order")
		}
	})
	t.Run("wrong content is not taken", func(t *testing.T) {
		mirror.PutManifest("app:"+d.String(), "", []byte("other"))
		r := openAt(t, o, "r.example", Credential{})
		if data, _, err := r.Manifest(t.Context(), d); err != nil || string(data) != "doc" {
			t.Fatalf("Manifest = %q, %v", data, err)
		}
	})
	t.Run("a wrong small blob is asked of the next", func(t *testing.T) {
		b := upstream.AddBlob([]byte("blob"))
		mirror.PutBlob(b, []byte("blub"))
		r := openAt(t, o, "r.example", Credential{})
		if data, err := r.Bytes(t.Context(), ocispec.Descriptor{Digest: b, Size: 4}); err != nil || string(data) != "blob" {
			t.Fatalf("Bytes = %q, %v", data, err)
		}
	})
	t.Run("a dead mirror is asked last from then on", func(t *testing.T) {
		var n atomic.Int32
		mirror.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
			n.Add(1)
			w.WriteHeader(http.StatusBadGateway)
			return true
		})
		defer mirror.SetFault(nil)
		r := openAt(t, o, "r.example", Credential{})
		for range 3 {
			if _, _, err := r.Manifest(t.Context(), d); err != nil {
				t.Fatal(err)
			}
		}
		if n.Load() != 2 { // one request, tried twice
			t.Errorf("asked %d times", n.Load())
		}
	})
	t.Run("all fail: the last decides, all are named", func(t *testing.T) {
		third.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusBadGateway)
			return true
		})
		defer third.SetFault(nil)
		r := openAt(t, o, "r.example", Credential{})
		_, err := r.Resolve(t.Context(), "v9")
		if !errors.Is(err, ErrNotFound) || errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), third.Host()) {
			t.Errorf("Resolve: %v", err)
		}
	})
	t.Run("the file is read at each pull", func(t *testing.T) {
		o := o
		o.CertsDir = certsDir(t, "r.example", fmt.Sprintf("server = %q", mirror.URL))
		c := New(o)
		name, _ := reference.WithName("r.example/app")
		for _, want := range []string{mirror.Host(), third.Host()} {
			r, err := c.Repository(name, Credential{})
			if err != nil {
				t.Fatal(err)
			}
			if r.hosts[0].name != want {
				t.Errorf("host is %s", r.hosts[0].name)
			}
			text := fmt.Sprintf("server = %q", third.URL)
			if err := os.WriteFile(filepath.Join(o.CertsDir, "r.example", "hosts.toml"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	})
}
