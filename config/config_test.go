package config

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/config.toml from Default")

// TestDocs holds docs/config.toml to Default: the reference cannot be out of date.
func TestDocs(t *testing.T) {
	const path = "../docs/config.toml"
	want := "# The settings of berth: /etc/berth/config.toml. Every key is optional; these are\n" +
		"# the values without a file. Written from the program by go test ./config -update.\n\n" + Default().String()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what Default says; run go test ./config -update. Want:\n%s", path, want)
	}
	c, err := Read(strings.NewReader(want))
	if err != nil {
		t.Fatalf("the reference is not a settings file: %v", err)
	}
	if empty, _ := Read(strings.NewReader("")); !reflect.DeepEqual(c, empty) {
		t.Errorf("read back: %+v, want %+v", c, empty)
	}
}

func TestEveryKeyIsExplained(t *testing.T) {
	var walk func(reflect.Type, string)
	walk = func(typ reflect.Type, prefix string) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			name := f.Tag.Get("toml")
			if name == "" {
				t.Errorf("%s%s has no key", prefix, f.Name)
			}
			switch f.Type.Kind() {
			case reflect.Struct:
				walk(f.Type, prefix+name+".")
				continue
			case reflect.Map:
				walk(f.Type.Elem(), prefix+name+".NAME.")
			}
			if f.Tag.Get("comment") == "" {
				t.Errorf("%s%s has no comment", prefix, name)
			}
		}
	}
	walk(reflect.TypeFor[Config](), "")
}

func TestRead(t *testing.T) {
	tests := []struct {
		name, text string
		want       func(*Config) // changes the defaults into what is wanted
	}{
		{"an empty file", "", func(*Config) {}},
		{"the socket follows the state folder", `state = "/x"`, func(c *Config) { c.State, c.Socket = "/x", "/x/berth.sock" }},
		{"unless it is given", "state = \"/x\"\nsocket = \"/y.sock\"", func(c *Config) { c.State, c.Socket = "/x", "/y.sock" }},
		{"a list replaces the default", "[network]\nbin_dirs = [\"/a\", \"/b\"]", func(c *Config) { c.Network.BinDirs = []string{"/a", "/b"} }},
		{"one key of a table", "[network]\nembedded = true", func(c *Config) { c.Network.Embedded = true }},
		{"handlers", "[handlers.fast]\n[handlers.runc]", func(c *Config) { c.Handlers = map[string]Handler{"fast": {}, "runc": {}} }},
		{"another runtime", "[handlers.crun]\npath = \"/usr/bin/crun\"", func(c *Config) { c.Handlers = map[string]Handler{"crun": {"/usr/bin/crun"}} }},
		{"all of it", `
root = "/r"
state = "/s"
socket = "/s.sock"
[log]
verbosity = 4
format = "json"
rate_limit = 1000
rate_burst = 5000
[network]
conf_dir = "/c"
bin_dirs = ["/b"]
in_process = false
embedded = true
[image]
certs_dir = "/certs"
registries_conf = "/registries.conf"
auth_file = "/config.json"
parallel_layers = 8
layer_connections = 2
connections = 6
pinned = ["registry.k8s.io/pause:3.10"]
[shim]
binary = "/shim"
pods_per_process = 1
upgrade = "never"
[snapshot]
driver = "lazy"
writable_limit = 0
[proxy_plugins.lazy]
address = "/lazy.sock"
[cgroup]
driver = "cgroupfs"
[selinux]
enable = false
[cdi]
spec_dirs = ["/cdi"]
[streaming]
address = "[::1]:10010"
tls_cert = "/tls.crt"
tls_key = "/tls.key"
[metrics]
address = "localhost:9477"
`, func(c *Config) {
			*c = Config{
				Root: "/r", State: "/s", Socket: "/s.sock", Log: Log{4, "json", 1000, 5000}, Network: Network{"/c", []string{"/b"}, false, true},
				Image: Image{"/certs", "/registries.conf", "/config.json", 8, 2, 6, []string{"registry.k8s.io/pause:3.10"}}, Shim: Shim{"/shim", 1, UpgradeNever}, Snapshot: Snapshot{"lazy", 0},
				Cgroup: Cgroup{"cgroupfs"}, CDI: CDI{[]string{"/cdi"}}, Streaming: Streaming{"[::1]:10010", "/tls.crt", "/tls.key"}, Metrics: Metrics{"localhost:9477"}, Handlers: map[string]Handler{},
				ProxyPlugins: map[string]ProxyPlugin{"lazy": {"/lazy.sock"}},
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := Default()
			want.Socket = "/run/berth/berth.sock"
			tt.want(&want)
			got, err := Read(strings.NewReader(tt.text))
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string // all of these, in one line
	}{
		{"a misspelt key", "roott = \"/x\"", []string{"line 1", `unknown key "roott"`, `"root"`}},
		{"a misspelt key in a table", "\n[network]\nconf_dri = \"/x\"", []string{"line 3", `"network.conf_dri"`, `"network.conf_dir"`}},
		{"a misspelt table", "[netwrk]\nembedded = true", []string{`"netwrk`, `"network`}},
		{"a misspelt empty table", "[shimm]", []string{`"shimm"`, `"shim"`}},
		{"the right key in the wrong table", "conf_dir = \"/x\"", []string{`"conf_dir"`, `"network.conf_dir"`}},
		{"an unknown key of a handler", "[handlers.kata]\npth = \"/x\"", []string{`"handlers.kata.pth"`, `"handlers.kata.path"`}},
		{"a handler in a misspelt table", "[handler.crun]\npath = \"/x\"", []string{`"handler.crun": did you mean "handlers.crun"?`}},
		{"a key of a handler in another's table", "[runtimes.crun]\nx = 1\n[runtimes]\npath = \"/x\"", []string{`"runtimes": `}},
		{"a key that is like none", "[cri.\"io.containerd\"]\nx = 1", []string{`"cri.io.containerd": berth config default prints`}},
		{"a handler that is no table", "[handlers]\ncrun = \"/usr/bin/crun\"", []string{"line 2, column 8: handlers.crun: a table is wanted: [handlers.crun]"}},
		{"a handler without a name", "[handlers]\npath = \"/usr/bin/crun\"", []string{"handlers.path: it belongs below a table [handlers.NAME]"}},
		{"handlers in a list", "[[handlers]]\npath = \"/usr/bin/crun\"", []string{"handlers: tables are wanted: [handlers.NAME]"}},
		{"a table that is none", "log = 3", []string{"log: a table is wanted: [log]"}},
		{"a string that is none", "root = 3", []string{`line 1, column 8: root: a string is wanted, in quotes`}},
		{"a list that is none", "[network]\nbin_dirs = \"/x\"", []string{`network.bin_dirs: a list of strings is wanted`}},
		{"a list of something else", "[network]\nbin_dirs = [3]", []string{`network.bin_dirs: a list of strings is wanted`}},
		{"yes", "[network]\nembedded = \"yes\"", []string{"network.embedded: true or false is wanted"}},
		{"every one of them", "a = 1\n[shim]\nb = 2", []string{`"a"`, `"shim.b"`}},
		{"a wrong type", "[shim]\npods_per_process = \"many\"", []string{"line 2, column 20: shim.pods_per_process: a whole number is wanted"}},
		{"no TOML", "root = \n", []string{"line 1"}},
		{"a key twice", "root = \"/a\"\nroot = \"/b\"", []string{"root"}},
		{"a number that is too large", "[shim]\npods_per_process = 99999999999999999999", []string{"line 2"}},

		{"relative paths", "root = \"r\"\nstate = \"s\"\nsocket = \"x\"\n[network]\nconf_dir = \"c\"\nbin_dirs = [\"b\"]\n[image]\ncerts_dir = \"\"\nregistries_conf = \"r.conf\"\nauth_file = \"c.json\"\n[shim]\nbinary = \"berth-shim\"",
			[]string{`root: "r" is not an absolute path`, `state: "s"`, `socket: "x"`, `network.conf_dir: "c"`, `network.bin_dirs: "b"`, `image.certs_dir: ""`, `image.registries_conf: "r.conf"`, `image.auth_file: "c.json"`, `shim.binary: "berth-shim"`}},
		{"one folder for both", "root = \"/x\"\nstate = \"/x/\"", []string{"state: must differ from root"}},
		{"a socket that is too long", "socket = \"/" + strings.Repeat("x", 107) + "\"", []string{"socket: ", "107 bytes"}},
		{"numbers out of range", "[log]\nverbosity = -1\nrate_limit = -2\nrate_burst = -3\n[image]\nparallel_layers = 0\n[shim]\npods_per_process = 5000",
			[]string{"log.verbosity: -1 is not between 0 and 10", "log.rate_limit: -2", "log.rate_burst: -3", "image.parallel_layers: 0", "shim.pods_per_process: 5000"}},
		{"streaming", "[streaming]\naddress = \"localhost:1\"\ntls_key = \"k\"",
			[]string{`streaming.address: "localhost:1" is not IP:PORT`, `streaming.tls_key: "k" is not an absolute path`, `streaming.tls_cert: and streaming.tls_key go together`}},
		{"metrics, nowhere", "[metrics]\naddress = \"localhost\"", []string{`metrics.address: "localhost" is neither HOST:PORT`}},
		{"metrics, at no port", "[metrics]\naddress = \"localhost:65536\"", []string{`metrics.address: "localhost:65536" is neither`}},
		{"metrics, with a scheme", "[metrics]\naddress = \"http://localhost:1\"", []string{`metrics.address: "http://localhost:1" is neither`}},
		{"metrics, on a relative socket", "[metrics]\naddress = \"unix://s.sock\"", []string{`metrics.address: "unix://s.sock" is not unix:// and an absolute path`}},
		{"metrics, on the socket that is taken", "socket = \"/s\"\n[metrics]\naddress = \"unix:///s\"", []string{"metrics.address: /s is the socket that the CRI is served on"}},
		{"metrics, on a socket that is too long", "[metrics]\naddress = \"unix:///" + strings.Repeat("x", 107) + "\"", []string{"metrics.address: ", "107 bytes"}},
		{"unknown words", "[log]\nformat = \"xml\"\n[snapshot]\ndriver = \"overly\"\n[cgroup]\ndriver = \"v2\"",
			[]string{`log.format: "xml" is not one of ["text" "json"]`, `snapshot.driver: "overly"`, `cgroup.driver: "v2"`}},
		{"no plugin folder", "[network]\nbin_dirs = []", []string{"network.bin_dirs: at least one"}},
		{"an empty pinned image", "[image]\npinned = [\"\"]", []string{"image.pinned"}},
		{"a pinned pattern that is none", "[image]\npinned = [\"a/[b\"]", []string{"image.pinned", "a/[b"}},
		{"another runtime that is not named by its path", "[handlers.crun]\npath = \"crun\"", []string{`handlers.crun.path: "crun" is not an absolute path`}},
		{"a handler that no RuntimeClass can name", "[handlers.\"My Runtime\"]", []string{"handlers.My Runtime: "}},
		{"a limit of a few bytes", "[snapshot]\nwritable_limit = 10", []string{"snapshot.writable_limit: 10 is neither 0 nor at least 1048576"}},
		{"a negative limit", "[snapshot]\nwritable_limit = -1", []string{"snapshot.writable_limit: -1 is neither"}},
		{"a limit that nothing keeps", "[snapshot]\nwritable_limit = 1_048_576\ndriver = \"native\"", []string{`snapshot.writable_limit: with the driver "native"`}},
		{"snapshot proxies", "[proxy_plugins.native]\naddress = \"s\"\n[proxy_plugins.\"a b\"]\naddress = \"/" + strings.Repeat("x", 107) + "\"\n[snapshot]\ndriver = \"lazy\"",
			[]string{"proxy_plugins.native: that is the name", `proxy_plugins.native.address: "s" is not an absolute path`, "proxy_plugins.a b: not a name", "107 bytes", `snapshot.driver: "lazy" is not one of ["erofs" "overlay" "native" "btrfs" "a b"`}},
		{"too much", strings.Repeat("#", sizeLimit+1), []string{"larger than"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Read(strings.NewReader(tt.text))
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
			for _, ours := range []string{"struct", "config.", "[]string", "of type"} {
				if strings.Contains(err.Error(), ours) {
					t.Errorf("in words of the program: %v", err)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %v", err)
			}
		})
	}
	if _, err := Read(strings.NewReader("x = 1")); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("not ErrUnknownKey: %v", err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "berth.toml")
	if err := os.WriteFile(file, []byte("root = \"/r\""), 0o644); err != nil {
		t.Fatal(err)
	}
	if c, err := Load(file); err != nil || c.Root != "/r" {
		t.Errorf("Load = %+v, %v", c, err)
	}
	missing := filepath.Join(dir, "none.toml")
	if _, err := Load(missing); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Errorf("a file that was asked for and is not there: %v", err)
	}
	if _, err := os.Stat(DefaultPath); errors.Is(err, os.ErrNotExist) {
		if c, err := Load(""); err != nil || c.Root != Default().Root {
			t.Errorf("no file at all: %+v, %v", c, err)
		}
	}
	if err := os.WriteFile(file, []byte("rot = \"/r\""), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file); err == nil || !strings.HasPrefix(err.Error(), file+": line 1: ") {
		t.Errorf("a broken file is not named: %v", err)
	}
}

func TestSystemdCgroup(t *testing.T) {
	c := Default()
	for driver, want := range map[string]bool{"systemd": true, "cgroupfs": false} {
		c.Cgroup.Driver = driver
		if c.SystemdCgroup() != want {
			t.Errorf("%s: %t", driver, !want)
		}
	}
	c.Cgroup.Driver = ""
	_, err := os.Stat("/run/systemd/system")
	if err != nil && c.SystemdCgroup() {
		t.Error("systemd is chosen where it does not run")
	}
}

func TestShimBinary(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "berth-shim")
	c := Default()
	t.Setenv("PATH", "relative:"+dir)
	if got, err := c.ShimBinary(); err == nil {
		t.Errorf("found %s", got)
	}
	if err := os.WriteFile(bin, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	t.Setenv("PATH", ".")
	if got, err := c.ShimBinary(); err == nil {
		t.Errorf("found %s in a folder that depends on where the daemon is", got)
	}
	t.Setenv("PATH", "relative:"+dir)
	if got, err := c.ShimBinary(); err != nil || got != bin {
		t.Errorf("in $PATH: %s, %v", got, err)
	}
	c.Shim.Binary = filepath.Join(dir, "other")
	if got, err := c.ShimBinary(); err == nil {
		t.Errorf("found %s", got)
	}
	c.Shim.Binary = bin
	if got, err := c.ShimBinary(); err != nil || got != bin {
		t.Errorf("as set: %s, %v", got, err)
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"kitten", "sitting", 3}, {"conf_dri", "conf_dir", 2}, {"root", "root", 0}} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

// TestJSON: the keys are the file's.
func TestJSON(t *testing.T) {
	c := Default()
	c.Handlers = map[string]Handler{"other": {}}
	text, err := c.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Root  string
		Image struct {
			CertsDir string `json:"certs_dir"`
		}
		Handlers map[string]any
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	if _, ok := got.Handlers["other"]; !ok || got.Root != c.Root || got.Image.CertsDir != c.Image.CertsDir {
		t.Errorf("%s", text)
	}
}

func TestLacksRegistries(t *testing.T) {
	usual := filepath.Join(t.TempDir(), "registries.conf")
	write := func(text string) {
		if err := os.WriteFile(usual, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := func(name string, i Image, want ...string) {
		got := i.lacksRegistries(usual)
		if len(got) != len(want) {
			t.Errorf("%s: %q", name, got)
		}
		for n := range min(len(got), len(want)) {
			if !strings.Contains(got[n], want[n]) {
				t.Errorf("%s: %q", name, got[n])
			}
		}
	}
	check("nothing there", Image{})
	write("unqualified-search-registries = [\"a.example\"]\n# [[registry]]\n")
	check("nothing that counts", Image{})
	write("\n[[registry]]\nprefix = \"a.example\"\n")
	check("tables that nobody reads", Image{}, "image.registries_conf")
	check("tables that are read", Image{RegistriesConf: usual})
	check("named and not there", Image{RegistriesConf: "/nowhere/r", AuthFile: "/nowhere/a"}, "image.registries_conf: /nowhere/r", "image.auth_file: /nowhere/a")
}
