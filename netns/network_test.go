package netns

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

func conflist(version, name string, types ...string) string {
	list := map[string]any{"cniVersion": version, "name": name}
	var all []map[string]any
	for _, typ := range types {
		all = append(all, map[string]any{"type": typ})
	}
	list["plugins"] = all
	data, _ := json.Marshal(list)
	return string(data)
}

func confName(t *testing.T, n *Network) string {
	t.Helper()
	conf, err := n.Conf()
	if err != nil {
		return ""
	}
	list, err := parseList(conf)
	if err != nil {
		t.Fatal(err)
	}
	return list.Name
}

func TestNetworkFollowsItsDirectory(t *testing.T) {
	top := t.TempDir()
	dir, bin := filepath.Join(top, "etc", "cni", "net.d"), filepath.Join(top, "opt", "cni", "bin")
	n := openNetwork(t, Options{ConfDir: dir, BinDirs: []string{bin}})
	named := func(name string) func() bool {
		return func() bool { return n.Ready() == nil && confName(t, n) == name }
	}

	if err := n.Ready(); !errors.Is(err, ErrNotReady) || !says(err, "no CNI configuration in "+dir) {
		t.Fatalf("at first: %v", err)
	}
	if conf, err := n.Conf(); !errors.Is(err, ErrNotReady) || conf != nil {
		t.Fatalf("at first: Conf = %q, %v", conf, err)
	}
	write(t, filepath.Join(dir, "10.conflist"), conflist("1.0.0", "one", "ok"))
	until(t, n, "the plugin is missed", func() bool {
		return says(n.Ready(), "10.conflist needs the CNI plugin ok, not found in "+bin)
	})
	if _, err := n.Conf(); !errors.Is(err, ErrNotReady) {
		t.Errorf("Conf without its plugin: %v", err)
	}
	os.MkdirAll(bin, 0o755)
	script(t, bin, "ok", "exit 0")
	until(t, n, "the plugin is there", named("one"))

	write(t, filepath.Join(dir, "05.conflist"), conflist("1.0.0", "zero", "ok"))
	until(t, n, "an earlier file wins", named("zero"))
	write(t, filepath.Join(dir, "05.conflist"), "{broken")
	until(t, n, "a broken file is passed over", func() bool { return named("one")() && len(n.Skipped()) == 1 })
	if !says(n.Skipped()[0], "05.conflist: ") {
		t.Errorf("Skipped = %v", n.Skipped())
	}
	os.Remove(filepath.Join(dir, "10.conflist"))
	until(t, n, "only the broken one is left", func() bool {
		return says(n.Ready(), "no usable CNI configuration: "+filepath.Join(dir, "05.conflist")+": ")
	})

	os.RemoveAll(dir)
	until(t, n, "the directory is gone", func() bool { return says(n.Ready(), "no CNI configuration in") })
	write(t, filepath.Join(dir, "10.conflist"), conflist("1.0.0", "two", "ok"))
	until(t, n, "it is back", named("two"))
	write(t, filepath.Join(dir, "05.conf"), `{"cniVersion":"1.0.0","name":"single","type":"ok"}`)
	until(t, n, "it is still watched", named("single"))

	os.RemoveAll(filepath.Join(top, "etc"))
	until(t, n, "all above is gone too", func() bool { return n.Ready() != nil })
	write(t, filepath.Join(dir, "10.conflist"), conflist("1.0.0", "three", "ok"))
	until(t, n, "all is back", named("three"))

	// Swapped as a whole, by rename.
	write(t, filepath.Join(top, "etc", "cni", "new.d", "10.conflist"), conflist("1.0.0", "four", "ok"))
	os.Rename(dir, dir+".old")
	os.Rename(filepath.Join(top, "etc", "cni", "new.d"), dir)
	until(t, n, "another directory has its name", named("four"))
	write(t, filepath.Join(dir, "05.conflist"), conflist("1.0.0", "five", "ok"))
	until(t, n, "that one is watched", named("five"))

	os.Remove(filepath.Join(bin, "ok"))
	until(t, n, "the plugin is removed", func() bool { return says(n.Ready(), "needs the CNI plugin ok") })
}

func TestNetworkAsksForStatus(t *testing.T) {
	top := t.TempDir()
	dir, bin := filepath.Join(top, "net.d"), filepath.Join(top, "bin")
	os.MkdirAll(bin, 0o755)
	script(t, bin, "good", `[ "$CNI_COMMAND" = STATUS ] && exit 0; exit 1`)
	script(t, bin, "bad", `echo '{"cniVersion":"1.1.0","code":50,"msg":"no route to the control plane"}'; exit 1`)
	script(t, bin, "slow", `sleep 1000 & sleep 1000`)
	n := openNetwork(t, Options{ConfDir: dir, BinDirs: []string{bin}})

	write(t, filepath.Join(dir, "10.conflist"), conflist("1.1.0", "a", "good"))
	until(t, n, "the plugin says yes", func() bool { return n.Ready() == nil })

	write(t, filepath.Join(dir, "10.conflist"), conflist("1.1.0", "a", "good", "bad"))
	until(t, n, "the plugin says no", func() bool { return says(n.Ready(), "no route to the control plane") })
	if _, err := n.Conf(); !errors.Is(err, ErrNotReady) {
		t.Errorf("Conf = %v", err)
	}
	write(t, filepath.Join(dir, "10.conflist"), conflist("1.0.0", "a", "good", "bad"))
	until(t, n, "its version has no STATUS", func() bool { return n.Ready() == nil })

	write(t, filepath.Join(dir, "10.conflist"), conflist("1.1.0", "a", "slow"))
	until(t, n, "the answer is awaited", func() bool { return says(n.Ready(), "have not answered yet") })
	if _, err := n.Conf(); err != nil {
		t.Errorf("Conf, while the answer is awaited: %v", err)
	}
	write(t, filepath.Join(dir, "10.conflist"), conflist("1.1.0", "a", "good"))
	until(t, n, "the slow one is dropped", func() bool { return n.Ready() == nil })

	write(t, filepath.Join(dir, "10.conflist"), conflist("1.1.0", "a", "slow")) // and closed meanwhile
	until(t, n, "the answer is awaited again", func() bool { return n.Ready() != nil })
}

// TestNetworkAtRest: plugins are asked again whether they are ready when somebody asks us, and not
// otherwise: then nothing wakes this process.
func TestNetworkAtRest(t *testing.T) {
	top := t.TempDir()
	dir, bin := filepath.Join(top, "net.d"), filepath.Join(top, "bin")
	os.MkdirAll(bin, 0o755)
	no := filepath.Join(t.TempDir(), "no") // not watched
	script(t, bin, "moody", `[ ! -e `+no+` ] && exit 0; echo '{"cniVersion":"1.1.0","code":50,"msg":"not in the mood"}'; exit 1`)
	n := openNetwork(t, Options{ConfDir: dir, BinDirs: []string{bin}, recheck: time.Nanosecond}) // whatever is known is old
	write(t, filepath.Join(dir, "10.conflist"), conflist("1.1.0", "a", "moody"))
	until(t, n, "the plugin says yes", func() bool { return n.view.Load().why == nil })
	if tick, stop := (&keeper{n: n}).tick(); tick != nil {
		t.Error("a timer wakes us although nobody asks")
		stop()
	}
	write(t, no, "")
	until(t, n, "somebody has asked, and the plugin says no", func() bool { return says(n.Ready(), "not in the mood") })
	os.Remove(no)
	until(t, n, "a network that is not ready is looked at by itself", func() bool { return n.view.Load().why == nil })
}

func TestNetworkEmbedded(t *testing.T) {
	top := t.TempDir()
	dir, bin := filepath.Join(top, "net.d"), filepath.Join(top, "bin")
	os.MkdirAll(bin, 0o755)
	n := openNetwork(t, Options{ConfDir: dir, BinDirs: []string{bin}, Embedded: true, Bridge: "brtest-none"})
	if err := n.Ready(); !says(err, "berth's own bridge network", "bridge, host-local, portmap", bin, "install the CNI reference plugins") {
		t.Fatalf("without plugins: %v", err)
	}
	for _, name := range []string{"bridge", "host-local", "portmap"} {
		script(t, bin, name, "exit 0")
	}
	until(t, n, "its plugins are there", func() bool { return n.Ready() == nil })
	if name := confName(t, n); name != embeddedName {
		t.Errorf("network %q", name)
	}
	conf, _ := n.Conf()
	if !strings.Contains(string(conf), n.o.CacheDir) || !strings.Contains(string(conf), "brtest-none") || strings.Contains(string(conf), `"bandwidth"`) {
		t.Errorf("%s", conf)
	}
	script(t, bin, "bandwidth", "exit 0")
	until(t, n, "bandwidth is there too", func() bool {
		conf, _ := n.Conf()
		return strings.Contains(string(conf), `"bandwidth"`)
	})
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was written to the configuration directory: %v", err)
	}
	write(t, filepath.Join(dir, "10.conflist"), "{")
	until(t, n, "a broken file does not mean berth's own", func() bool { return says(n.Ready(), "no usable CNI configuration") })
	write(t, filepath.Join(dir, "10.conflist"), conflist("1.0.0", "theirs", "bridge"))
	until(t, n, "a configuration wins", func() bool { return n.Ready() == nil && confName(t, n) == "theirs" })
}

func TestFreeRange(t *testing.T) {
	all := func(prefixes ...string) []netip.Prefix {
		var out []netip.Prefix
		for _, p := range prefixes {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	tests := []struct {
		name  string
		taken []netip.Prefix
		want  string
	}{
		{"an empty host", nil, "10.88.0.0/16"},
		{"a smaller route within", all("10.88.7.0/24"), "10.89.0.0/16"},
		{"a larger route around", all("10.0.0.0/8"), "172.29.0.0/16"},
		{"a single address", all("10.88.0.1/32", "10.89.255.255/32"), "10.213.0.0/16"},
		{"all private", all("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := freeRange(tt.taken)
			if tt.want == "" {
				if err == nil {
					t.Errorf("got %s", got)
				}
				return
			}
			if err != nil || got.String() != tt.want {
				t.Errorf("got %s, %v; want %s", got, err, tt.want)
			}
		})
	}
}

func TestPickRange(t *testing.T) {
	inHostOfItsOwn(t)
	add := func(name, addr string) {
		t.Helper()
		link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
		if err := netlink.LinkAdd(link); err != nil {
			t.Fatal(err)
		}
		a, err := netlink.ParseAddr(addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.AddrAdd(link, a); err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
	}
	want := func(bridge, what string) {
		t.Helper()
		if got, err := pickRange(bridge); err != nil || got.String() != what {
			t.Errorf("for %s: %s, %v; want %s", bridge, got, err, what)
		}
	}
	want("own0", "10.88.0.0/16")
	add("other0", "10.88.3.1/24")
	want("own0", "10.89.0.0/16")
	add("own0", "10.213.0.1/16")
	want("own0", "10.213.0.0/16") // as it was, whatever is free now
	want("another0", "10.89.0.0/16")
}
