package registry

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// registriesConf writes a registries.conf of the first text and drop-ins 1.conf and on of the others.
func registriesConf(t *testing.T, texts ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "registries.conf")
	if err := os.Mkdir(file+".d", 0o755); err != nil {
		t.Fatal(err)
	}
	for i, text := range texts {
		name := file
		if i > 0 {
			name = filepath.Join(file+".d", fmt.Sprint(i, ".conf"))
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return file
}

// places lists the hosts of an image's name, as SCHEME://HOST/REPOSITORY, with what is special about
// them: ! = certificate not verified, ~ = for many registries, ? = HTTPS or plain HTTP, to be found out.
func places(c *Client, image string) ([]string, error) {
	name, err := reference.ParseDockerRef(image)
	if err != nil {
		return nil, err
	}
	endpoints, err := c.endpoints(name)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range endpoints {
		s := e.scheme + "://" + e.host + strings.TrimPrefix(e.path, "/v2")
		if e.repo != "" {
			s += "/" + e.repo
		}
		if e.skipVerify {
			s += "!"
		}
		if e.probe {
			s += "?"
		}
		if e.fallback {
			s += "~"
		}
		if !e.pull || !e.resolve {
			s += " cannot"
		}
		out = append(out, s)
	}
	return out, nil
}

func TestRegistriesConf(t *testing.T) {
	byDigest := "@" + digest.FromString("x").String()
	const example = `
unqualified-search-registries = ["wrong.example"]
short-name-mode = "enforcing"
[aliases]
busybox = "wrong.example/busybox"
[[registry]]
prefix = "example.com/foo"
location = "internal.example/bar"
[[registry.mirror]]
location = "m0.example/mirror-for-foo"
[[registry.mirror]]
location = "m1.example:5000/mirrors/foo/"
insecure = true
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "m2.example"
pull-from-mirror = "tag-only"
[[registry]]
prefix = "example.com/foo/bar"
location = "longer.example"
[[registry]]
prefix = "*.wild.example"
[[registry.mirror]]
location = "w.example/all"
[[registry]]
prefix = "*.moved.wild.example"
location = "moved.example/sub"
[[registry]]
location = "plain.example"
insecure = true
[[registry]]
location = "plain.example:80"
insecure = true
[[registry]]
prefix = "docker.io/library"
mirror-by-digest-only = true
[[registry.mirror]]
location = "hub.example/library"
[[registry]]
location = "never.example"
blocked = true
[[registry.mirror]]
location = "copy.example/never"
[[registry]]
prefix = "bad.example/team"
blocked = true
[[registry]]
prefix = "pinned.example/app:v1"
location = "elsewhere.example/app:v1"
`
	c := New(Options{RegistriesConf: registriesConf(t, example)})
	for _, tt := range []struct {
		image string
		want  []string
	}{
		{"example.com/foo/image:v1", []string{"https://m0.example/mirror-for-foo/image", "https://m2.example/image", "https://internal.example/bar/image"}},
		{"example.com/foo/image" + byDigest, []string{"https://m0.example/mirror-for-foo/image", "http://m1.example:5000/mirrors/foo/image!?", "https://internal.example/bar/image"}},
		{"EXAMPLE.com:443/foo/image:v1", []string{"https://m0.example/mirror-for-foo/image", "https://m2.example/image", "https://internal.example/bar/image"}},
		{"example.com/foo/bar/x", []string{"https://longer.example/x"}},
		{"example.com/foobar", []string{"https://example.com"}},          // not the prefix
		{"example.com/fo", []string{"https://example.com"}},              // shorter than it
		{"example.com:5000/foo/x", []string{"https://example.com:5000"}}, // another registry
		{"a.b.wild.example/x/y", []string{"https://w.example/all/x/y~", "https://a.b.wild.example/x/y~"}},
		{"a.wild.example:5000/x", []string{"https://w.example/all/x~", "https://a.wild.example:5000/x~"}},
		{"wild.example/x", []string{"https://wild.example"}},
		{"notwild.example/x", []string{"https://notwild.example"}},
		{"a.moved.wild.example/x", []string{"https://moved.example/sub/x~"}},
		{"plain.example/x", []string{"http://plain.example/x!?"}},
		{"plain.example:80/x", []string{"http://plain.example:80/x!"}},
		{"busybox", []string{"https://registry-1.docker.io/library/busybox"}},
		{"busybox" + byDigest, []string{"https://hub.example/library/busybox", "https://registry-1.docker.io/library/busybox"}},
		{"never.example/x", []string{"https://copy.example/never/x"}},
		{"pinned.example/app:v1", []string{"https://elsewhere.example/app"}},
		{"pinned.example/app:v2", []string{"https://pinned.example"}},
		{"localhost:5000/x", []string{"http://localhost:5000!?"}},
	} {
		got, err := places(c, tt.image)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, %v\nwant %q", tt.image, got, err, tt.want)
		}
	}
	for _, image := range []string{"bad.example/team/x", "BAD.example/team/x:v1", "bad.example/team" + byDigest} {
		_, err := places(c, image)
		if !errors.Is(err, ErrUnauthorized) || !strings.Contains(fmt.Sprint(err), "registries.conf blocks bad.example/team") {
			t.Errorf("%s: %v", image, err)
		}
	}
}

// TestRegistriesConfDropIns: the last table of a prefix counts, whole; the folder's other files do not.
func TestRegistriesConfDropIns(t *testing.T) {
	file := registriesConf(t, "[[registry]]\nlocation = \"r.example\"\ninsecure = true\n[[registry.mirror]]\nlocation = \"m.example\"",
		"[[registry]]\nprefix = \"R.example\"\nlocation = \"one.example\"", "[[registry]]\nprefix = \"r.example\"\nlocation = \"two.example\"")
	if err := os.WriteFile(filepath.Join(file+".d", "9.conf.bak"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := New(Options{RegistriesConf: file})
	if got, err := places(c, "r.example/x"); err != nil || !slices.Equal(got, []string{"https://two.example/x"}) {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.Remove(filepath.Join(file+".d", "2.conf")); err != nil { // read at each pull
		t.Fatal(err)
	}
	if got, err := places(c, "r.example/x"); err != nil || !slices.Equal(got, []string{"https://one.example/x"}) {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.RemoveAll(filepath.Dir(file)); err != nil {
		t.Fatal(err)
	}
	if got, err := places(c, "r.example/x"); err != nil || !slices.Equal(got, []string{"https://r.example"}) {
		t.Errorf("without a file: %q, %v", got, err)
	}
}

// TestBothFiles: a registry's own hosts.toml goes first, then registries.conf, then certificates
// alone, then _default; a block holds whatever hosts.toml says.
func TestBothFiles(t *testing.T) {
	certs := t.TempDir()
	for name, text := range map[string]string{
		"own.example": `server = "https://by-hosts.example"`, "blocked.example": `server = "https://by-hosts.example"`,
		"certs.example": "", "m.example": "", "_default": `server = "https://by-default.example"`,
	} {
		if err := os.Mkdir(filepath.Join(certs, name), 0o755); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(certs, name, "hosts.toml")
		if text == "" {
			file = filepath.Join(certs, name, "a.crt")
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	conf := registriesConf(t, `
[[registry]]
prefix = "own.example"
location = "wrong.example"
[[registry]]
prefix = "blocked.example/bad"
blocked = true
[[registry]]
location = "certs.example"
[[registry.mirror]]
location = "m.example/c"
[[registry]]
prefix = "any.example"
location = "by-conf.example"
`)
	c := New(Options{CertsDir: certs, RegistriesConf: conf})
	for image, want := range map[string][]string{
		"own.example/x":          {"https://by-hosts.example"},
		"blocked.example/good/x": {"https://by-hosts.example"},
		"certs.example/x":        {"https://m.example/c/x", "https://certs.example/x"},
		"any.example/x":          {"https://by-conf.example/x"},
		"other.example/x":        {"https://by-default.example~"},
	} {
		if got, err := places(c, image); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v; want %q", image, got, err, want)
		}
	}
	if _, err := places(c, "blocked.example/bad/x"); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("blocked: %v", err)
	}
	if err := os.WriteFile(filepath.Join(certs, "_default", "b.crt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for image, files := range map[string][]string{"certs.example/x": {"m.example/a.crt", "certs.example/a.crt"}, "any.example/x": {"_default/b.crt"}} {
		name, _ := reference.ParseDockerRef(image)
		endpoints, err := c.endpoints(name)
		if err != nil || len(endpoints) != len(files) {
			t.Fatalf("%s: %+v, %v", image, endpoints, err)
		}
		for i, e := range endpoints {
			if !slices.Equal(e.ca, []string{filepath.Join(certs, files[i])}) {
				t.Errorf("%s: certificates %q", image, e.ca)
			}
		}
	}
}

func TestRegistriesConfBad(t *testing.T) {
	for name, text := range map[string]string{
		"not TOML":                      "[[registry",
		"another type":                  "[[registry]]\nlocation = 3",
		"neither prefix nor location":   "[[registry]]\nblocked = true",
		"version 1":                     "[registries.block]\nregistries = [\"r.example\"]",
		"a star in the middle":          "[[registry]]\nprefix = \"a.*.example\"",
		"a star and a path":             "[[registry]]\nprefix = \"*.example/x\"",
		"a star and a port":             "[[registry]]\nprefix = \"*.example:5000\"",
		"a mirror without a place":      "[[registry]]\nprefix = \"r.example\"\n[[registry.mirror]]\ninsecure = true",
		"an unknown word":               "[[registry]]\nprefix = \"r.example\"\n[[registry.mirror]]\nlocation = \"m.example\"\npull-from-mirror = \"never\"",
		"two ways to say it":            "[[registry]]\nprefix = \"r.example\"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = \"m.example\"\npull-from-mirror = \"all\"",
		"a location that is a URL":      "[[registry]]\nprefix = \"r.example\"\nlocation = \"https://m.example\"",
		"a location with a user":        "[[registry]]\nprefix = \"r.example\"\nlocation = \"me:hunter22@m.example\"",
		"a prefix with a user":          "[[registry]]\nprefix = \"me:hunter22@r.example\"",
		"a location with a path up":     "[[registry]]\nprefix = \"r.example\"\nlocation = \"m.example/../x\"",
		"a location with another tag":   "[[registry]]\nprefix = \"r.example/app:v1\"\nlocation = \"m.example/app:v2\"",
		"a repository that is a host":   "[[registry]]\nprefix = \"r.example/app\"\nlocation = \"m.example\"",
		"larger than anybody writes it": strings.Repeat("#", maxFile+1),
	} {
		_, err := places(New(Options{RegistriesConf: registriesConf(t, text)}), "r.example/app:v1")
		if !errors.Is(err, ErrConfig) || !strings.Contains(fmt.Sprint(err), "registries.conf") || strings.Contains(fmt.Sprint(err), "hunter22") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := places(New(Options{RegistriesConf: registriesConf(t, "[registries.search]\nregistries = [\"r.example\"]")}), "x"); err != nil {
		t.Errorf("version 1 with a search list: %q, %v", got, err)
	}
}

// TestRegistriesConfPull pulls by a mirror and by the location, both plain HTTP, under other names of the repository.
func TestRegistriesConfPull(t *testing.T) {
	mirror, place := newServer(t), newServer(t)
	d := place.AddManifest("sub/app", "v1", "", []byte("doc"))
	place.RequireBearer("me", "password", "TOKEN-1234")
	conf := registriesConf(t, fmt.Sprintf("[[registry]]\nprefix = \"r.example\"\nlocation = \"%s/sub\"\ninsecure = true\n[[registry.mirror]]\nlocation = \"%s/copy\"\ninsecure = true",
		place.Host(), mirror.Host()))
	o := quick
	o.RegistriesConf = conf
	r := openAt(t, o, "r.example", Credential{Username: "me", Password: "password"})
	got, err := r.Resolve(t.Context(), "v1")
	if err != nil || got.Digest != d {
		t.Fatalf("Resolve = %v, %v", got, err)
	}
	if len(mirror.Requests("/v2/copy/app/manifests/v1")) == 0 {
		t.Error("the mirror was not asked by its name")
	}
	for _, q := range append(mirror.Requests("/v2/"), place.Requests("/v2/")...) {
		if q.Query != "" {
			t.Errorf("asked for %s?%s", q.Path, q.Query)
		}
	}
	if q := place.Requests("/token"); len(q) != 1 || !strings.Contains(q[0].Query, "repository%3Asub%2Fapp%3Apull") {
		t.Errorf("token for %+v", q)
	}
	if _, err := r.Resolve(t.Context(), "v2"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), place.Host()+"/sub/app: r.example/app: ") {
		t.Errorf("absent: %v", err)
	}
}

func FuzzRegistriesConf(f *testing.F) {
	f.Add("[[registry]]\nprefix = \"*.example\"\nlocation = \"m.example/x\"\n[[registry.mirror]]\nlocation = \"n.example\"", "a.example/b/c:v1")
	f.Add("[[registry]]\nlocation = \"a.example\"\nblocked = true\n[[registry.mirror]]\nlocation = \"n.example\"", "a.example/b")
	f.Add("[[registry]]\nprefix = \"a.example/b:v1\"\nlocation = \"c.example/d:v1\"", "a.example/b:v1")
	f.Fuzz(func(t *testing.T, text, image string) {
		name, err := reference.ParseDockerRef(image)
		if err != nil {
			return
		}
		all := registries{file: "registries.conf"}
		if all.add([]byte(text)) != nil {
			return
		}
		full, _ := canonicalName(name)
		table := all.find(full)
		if table == nil {
			return
		}
		endpoints, err := all.endpoints(table, name, "")
		if err == nil && len(endpoints) == 0 {
			t.Fatal("no endpoints and no error")
		}
		for _, e := range endpoints {
			if _, err := reference.WithName("r.example/" + e.repo); err != nil || strings.ContainsAny(e.host, "/@?#") || e.host == "" {
				t.Fatalf("%q: host %q, repository %q", image, e.host, e.repo)
			}
		}
	})
}
