package registry

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParseHosts(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string // scheme://host/path of each, with ! when it may not resolve
	}{
		{"nothing means the registry itself", "", []string{"://"}},
		{"hosts in the file's order, the server last", `
server = "https://registry-1.docker.io"
[host."https://z.example"]
  capabilities = ["pull"]
[host."https://a.example".header]
  x-one = "1"
[host."http://m.example:5000/sub/"]
  capabilities = ["pull", "resolve", "push"]
[host."https://z.example".header]
  x-two = ["2", "3"]
`, []string{"https://z.example/v2!", "https://a.example/v2", "http://m.example:5000/sub/v2", "https://registry-1.docker.io/v2"}},
		{"a path that is complete", `
server = "https://s.example/v2"
[host."https://h.example/v2/mirror"]
  override_path = true
`, []string{"https://h.example/v2/mirror", "https://s.example/v2"}},
		{"inline tables and dotted keys", `
host."https://b.example".capabilities = ["pull"]
host."https://a.example" = { capabilities = ["pull", "resolve"] }
`, []string{"https://b.example/v2!", "https://a.example/v2", "://"}},
		{"one inline table", `host = { "https://b.example" = {}, "https://a.example" = {} }`,
			[]string{"https://b.example/v2", "https://a.example/v2", "://"}},
		{"a table of hosts", "[host]\n\"https://b.example\" = {}\n\"https://a.example\" = {}\n",
			[]string{"https://b.example/v2", "https://a.example/v2", "://"}},
		{"no scheme means https; docker.io has no registry of that name", `server = "docker.io"`, []string{"https://registry-1.docker.io/v2"}},
		{"keys of the future", "server = \"https://s.example\"\nnovel = 1\n[host.\"https://h.example\"]\nnovel = {}\n",
			[]string{"https://h.example/v2", "https://s.example/v2"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			endpoints, err := parseHosts("/dir", []byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range endpoints {
				s := e.scheme + "://" + e.host + e.path
				if !e.resolve {
					s += "!"
				}
				got = append(got, s)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestParseHostsDetails(t *testing.T) {
	endpoints, err := parseHosts("/dir", []byte(`
[host."https://h.example"]
  ca = ["a.crt", "/abs/b.crt"]
  client = [["c.cert", "c.key"], ["d.pem", ""]]
  skip_verify = true
  dial_timeout = "2s"
  proxy = "http://proxy.example:8080"
  [host."https://h.example".header]
    x-one = "1"
    X-Two = ["2", "3"]
`))
	if err != nil {
		t.Fatal(err)
	}
	e := endpoints[0]
	if want := []string{"/dir/a.crt", "/abs/b.crt"}; !reflect.DeepEqual(e.ca, want) {
		t.Errorf("ca = %q", e.ca)
	}
	if want := [][2]string{{"/dir/c.cert", "/dir/c.key"}, {"/dir/d.pem", ""}}; !reflect.DeepEqual(e.client, want) {
		t.Errorf("client = %q", e.client)
	}
	if want := (http.Header{"X-One": {"1"}, "X-Two": {"2", "3"}}); !reflect.DeepEqual(e.header, want) {
		t.Errorf("header = %q", e.header)
	}
	if !e.skipVerify || e.dialTimeout.String() != "2s" || e.proxy.Host != "proxy.example:8080" || e.probe {
		t.Errorf("got %+v", e)
	}
}

func TestParseHostsBad(t *testing.T) {
	for name, text := range map[string]string{
		"not TOML":                `server = `,
		"unknown capability":      `capabilities = ["fly"]`,
		"not a URL":               `[host."https://%zz"]`,
		"not http":                `[host."ftp://h.example"]`,
		"user in the URL":         `[host."https://me:secret@h.example"]`,
		"empty host":              `[host.""]`,
		"ca of another type":      `ca = 1`,
		"client triple":           `client = [["a","b","c"]]`,
		"header number":           "[header]\nx = 1",
		"dial_timeout a word":     `dial_timeout = "soon"`,
		"dial_timeout of zero":    `dial_timeout = "0s"`,
		"proxy without a host":    `proxy = "proxy"`,
		"proxy of another kind":   `proxy = "ftp://me:secret@proxy"`,
		"proxy with a path":       `proxy = "http://me:secret@proxy/path"`,
		"proxy with a query":      `proxy = "http://me:secret@proxy/?q"`,
		"header of another type":  "[header]\nx = [\"secret\", 1]",
		"header that is a date":   "[header]\nx = 1979-05-27",
		"dial_timeout below zero": `dial_timeout = "-1s"`,
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := parseHosts("/dir", []byte(text)); err == nil {
				t.Errorf("no error, but %+v", got)
			} else if strings.Contains(err.Error(), "secret") {
				t.Errorf("secret in %q", err)
			}
		})
	}
}

func TestEndpointsFor(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.example:5000", "b.example_5000_", "b.example:5000", "c.example", "certs.example", "_default"} {
		sub := filepath.Join(dir, name)
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		text := `[host."https://` + strings.NewReplacer(":", "-", "_", "-").Replace(name) + `"]`
		if name == "certs.example" {
			for _, f := range []string{"x.crt", "y.cert", "y.key", "z.cert"} {
				if err := os.WriteFile(filepath.Join(sub, f), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			continue
		}
		if err := os.WriteFile(filepath.Join(sub, "hosts.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct{ domain, first, last string }{
		{"a.example:5000", "a.example-5000", "https://a.example:5000/v2"},
		{"b.example:5000", "b.example-5000-", "https://b.example:5000/v2"},
		{"c.example", "c.example", "https://c.example/v2"},
		{"docker.io", "-default", "https://registry-1.docker.io/v2"},
		{"other.example", "-default", "https://other.example/v2"},
		{"certs.example", "certs.example", "https://certs.example/v2"},
		{"localhost:5000", "-default", "http://localhost:5000/v2"},
		{"[::1]:80", "-default", "http://[::1]:80/v2"},
		{"127.0.0.1", "-default", "https://127.0.0.1/v2"},
	}
	for _, tt := range tests {
		t.Run(tt.domain, func(t *testing.T) {
			got, err := endpointsFor(dir, tt.domain)
			if err != nil {
				t.Fatal(err)
			}
			first, last := got[0], got[len(got)-1]
			if first.host != tt.first || last.scheme+"://"+last.host+last.path != tt.last || !last.pull || !last.resolve {
				t.Errorf("first %s, last %s://%s%s", first.host, last.scheme, last.host, last.path)
			}
			if first.fallback != (tt.first == "-default") {
				t.Errorf("fallback = %t", first.fallback)
			}
		})
	}
	certs, _ := endpointsFor(dir, "certs.example")
	sub := filepath.Join(dir, "certs.example")
	if want := []string{sub + "/x.crt"}; !reflect.DeepEqual(certs[0].ca, want) {
		t.Errorf("ca = %q", certs[0].ca)
	}
	if want := [][2]string{{sub + "/y.cert", sub + "/y.key"}, {sub + "/z.cert", ""}}; !reflect.DeepEqual(certs[0].client, want) {
		t.Errorf("client = %q", certs[0].client)
	}
	if err := os.WriteFile(filepath.Join(dir, "c.example", "hosts.toml"), []byte("server ="), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := endpointsFor(dir, "c.example"); !errors.Is(err, ErrConfig) {
		t.Errorf("broken file: %v", err)
	}
}

func TestForHost(t *testing.T) {
	tests := []struct {
		name           string
		server, domain string
		host           string
		fallback, want bool
	}{
		{"the registry itself", "", "r.example", "r.example", false, true},
		{"the registry itself, found by _default", "", "r.example", "r.example", true, true},
		{"Docker Hub by its other name", "", "docker.io", "registry-1.docker.io", true, true},
		{"a mirror of the registry's own directory", "", "r.example", "m.example", false, true},
		{"a mirror for everything", "", "r.example", "m.example", true, false},
		{"a mirror for everything that is named", "m.example", "r.example", "m.example", true, true},
		{"named the registry: not its mirror", "r.example", "r.example", "m.example", false, false},
		{"named another", "x.example", "r.example", "r.example", false, false},
		{"named by Docker's URL", "https://index.docker.io/v1/", "docker.io", "registry-1.docker.io", false, true},
		{"named with a path", "r.example/team", "r.example", "r.example", false, true},
		{"named with another port", "r.example:5000", "r.example", "r.example", false, false},
		{"named in capitals", "R.Example:443", "r.example", "r.example", false, true},
		{"not a URL", "https://%zz", "r.example", "r.example", false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := Credential{Username: "u", Password: "p", Server: tt.server}
			if got := c.forHost(endpoint{host: tt.host, fallback: tt.fallback}, tt.domain); got != tt.want {
				t.Errorf("got %t", got)
			}
		})
	}
}

func FuzzParseHosts(f *testing.F) {
	f.Add([]byte("server = \"https://a\"\n[host.\"https://b\"]\nca = [\"x\"]\nclient = [[\"a\",\"b\"]]\n[host.\"https://b\".header]\nx = \"y\""))
	f.Add([]byte("host = { \"https://b\" = {} }"))
	f.Fuzz(func(t *testing.T, data []byte) {
		endpoints, err := parseHosts("/dir", data)
		if err != nil {
			return
		}
		if len(endpoints) == 0 {
			t.Fatal("no endpoints and no error")
		}
		for _, e := range endpoints[:len(endpoints)-1] {
			if e.host == "" || (e.scheme != "http" && e.scheme != "https") {
				t.Fatalf("mirror %+v", e)
			}
		}
	})
}
