package registry

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distribution/reference"
)

// FuzzHostDir: whatever an image is called, its registry's directory is one directly in
// certs.d, or none; never another file of the node.
func FuzzHostDir(f *testing.F) {
	for _, s := range []string{"busybox", "localhost:5000/a", "../../etc/a:b", "_default/a", "[::1]:5000/a", "a.example_5000_/x", "A.example:1/..", "x//y", "r.example:70000/a@sha256:" + strings.Repeat("a", 64)} {
		f.Add(s)
	}
	outer := f.TempDir()
	certs := filepath.Join(outer, "certs.d")
	for _, name := range []string{"_default", "a.example", "localhost_5000_", "localhost:5000", "docker.io"} {
		if err := os.MkdirAll(filepath.Join(certs, name), 0o755); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		named, err := reference.ParseDockerRef(s)
		if err != nil {
			return
		}
		domain := reference.Domain(named)
		dir, err := hostDir(certs, domain)
		if err == nil && filepath.Dir(dir) != certs {
			t.Errorf("%q of %q: directory %q", domain, s, dir)
		}
		base := filepath.Base(dir)
		if host := strings.TrimSuffix(domain, ":"+portOf(domain)); err == nil && base != "_default" && base != domain && base != host+"_"+portOf(domain)+"_" {
			t.Errorf("%q has the directory of another: %q", domain, base)
		}
		endpoints, err := endpointsFor(certs, domain)
		if err != nil || len(endpoints) == 0 {
			t.Fatalf("%q: %v, %v", domain, endpoints, err)
		}
		if last := endpoints[len(endpoints)-1]; last.host != domain && domain != "docker.io" {
			t.Errorf("%q leads to %q", domain, last.host)
		}
	})
}
