package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// testLimit bounds everything that a test waits for. It is no measure.
const testLimit = time.Minute

func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), testLimit)
	t.Cleanup(cancel)
	return ctx
}

// programs builds the reference plugins, once, and returns their folder.
func programs(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		if testing.Short() {
			t.Skip("needs root")
		}
		t.Fatal("needs root (or -short, which skips it)")
	}
	out, err := exec.Command("../../test/cni/build.sh").Output()
	if err != nil {
		t.Fatalf("build.sh: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// A host is a network namespace that stands for a node's, with folders of its own. The
// test's goroutine is in it until the test ends, and so is what it starts.
type host struct {
	t    testing.TB
	dir  string
	pods map[string]string // ID to path of the namespace
}

// newHost takes the goroutine into one.
func newHost(t testing.TB) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir(), pods: map[string]string{}}
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer home.Close()
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Errorf("cannot go back: %v", err) // and the thread stays locked
			return
		}
		runtime.UnlockOSThread()
	})
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// pod makes a network namespace for a container.
func (h *host) pod(id string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, "net-"+id)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		h.t.Fatal(err)
	}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // no unlock: the thread ends
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		made <- err
	}()
	if err := <-made; err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { h.lose(id) })
	h.pods[id] = path
	return path
}

// lose takes the namespace of a container away, if it is there.
func (h *host) lose(id string) {
	path, ok := h.pods[id]
	if !ok {
		return
	}
	delete(h.pods, id)
	if err := errors.Join(unix.Unmount(path, unix.MNT_DETACH), os.Remove(path)); err != nil {
		h.t.Error(err)
	}
}

// A way is how plugins are called.
type way struct {
	name string
	exec func(context.Context, string, []byte, []string) ([]byte, error)
	bin  string
	// sweep takes away what DEL has only retired.
	sweep func()
}

// byProgram runs the programs in bin.
func byProgram(bin string) way {
	return way{"by program", func(ctx context.Context, path string, conf []byte, env []string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, path)
		cmd.Env, cmd.Stdin = env, strings.NewReader(string(conf))
		out, err := cmd.Output()
		if err != nil { // which may stand behind a result
			var said types.Error
			for d := json.NewDecoder(bytes.NewReader(out)); d.Decode(&said) == nil; {
			}
			if said.Code != 0 {
				return nil, &said
			}
		}
		return out, err
	}, bin, func() {}}
}

// byUs answers within this process.
func byUs(p *Plugins) way {
	return way{"in process", func(ctx context.Context, path string, conf []byte, env []string) ([]byte, error) {
		return p.Answer(ctx, filepath.Base(path), conf, env, nil)
	}, "/nowhere", p.Sweep}
}

// ExecPlugin, FindInPath and Decode are invoke.Exec.
func (w way) ExecPlugin(ctx context.Context, path string, conf []byte, env []string) ([]byte, error) {
	return w.exec(ctx, path, conf, env)
}
func (w way) FindInPath(name string, _ []string) (string, error) {
	return filepath.Join(w.bin, name), nil
}
func (way) Decode(data []byte) (version.PluginInfo, error) {
	return (&version.PluginDecoder{}).Decode(data)
}

// A chain is a list of plugins and what a runtime tells them.
type chain struct {
	name string
	conf string // of the list; DIR is the host's folder
	caps map[string]any
	args [][2]string
	pods int // at most; 0 is all
}

func (h *host) list(c chain) *libcni.NetworkConfigList {
	h.t.Helper()
	list, err := libcni.NetworkConfFromBytes([]byte(strings.ReplaceAll(c.conf, "DIR", h.dir)))
	if err != nil {
		h.t.Fatal(err)
	}
	return list
}

func (h *host) runtimeConf(c chain, id string) *libcni.RuntimeConf {
	args := slices.Concat([][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAME", "web"}}, c.args)
	return &libcni.RuntimeConf{ContainerID: id, NetNS: h.pods[id], IfName: "eth0", Args: args, CapabilityArgs: c.caps}
}

func (h *host) cni(w way) *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir([]string{w.bin}, filepath.Join(h.dir, "cache"), w)
}

// add, check and del are what libcni makes of them, by a way. The result is JSON.
func (h *host) add(w way, c chain, id string) (string, error) {
	r, err := h.cni(w).AddNetworkList(limited(h.t), h.list(c), h.runtimeConf(c, id))
	if err != nil {
		return "", err
	}
	data, err := json.MarshalIndent(r, "", " ")
	return string(data), err
}

func (h *host) check(w way, c chain, id string) error {
	return h.cni(w).CheckNetworkList(limited(h.t), h.list(c), h.runtimeConf(c, id))
}

func (h *host) del(w way, c chain, id string) error {
	defer w.sweep()
	return h.cni(w).DelNetworkList(limited(h.t), h.list(c), h.runtimeConf(c, id))
}

// said runs a program in the host's namespace, or in a container's.
func (h *host) said(id string, args ...string) string {
	h.t.Helper()
	if id != "" {
		args = append([]string{"nsenter", "--net=" + h.pods[id]}, args...)
	}
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// state is all that plugins leave, without what differs each time.
func (h *host) state() string {
	h.t.Helper()
	var b strings.Builder
	section := func(title, text string) { fmt.Fprintf(&b, "== %s\n%s\n", title, strings.TrimSpace(text)) }
	ids := append([]string{""}, sortedKeys(h.pods)...)
	for _, id := range ids {
		for _, args := range [][]string{
			{"ip", "-d", "addr"}, {"ip", "route", "show", "table", "all"}, {"ip", "-6", "route", "show", "table", "all"},
			{"ip", "rule"}, {"sh", "-c", sysctls},
		} {
			section(id+" "+args[0]+" "+args[1]+" "+args[len(args)-1][:3], plain(h.said(id, args...)))
		}
	}
	for _, args := range [][]string{{"nft", "list", "ruleset"}, {"iptables-save"}, {"ip6tables-save"}} {
		if _, err := exec.LookPath(args[0]); err == nil {
			section(strings.Join(args, " "), plain(h.said("", args...)))
		}
	}
	section("files", h.files())
	return strings.ReplaceAll(b.String(), h.dir, "DIR")
}

func sortedKeys(m map[string]string) (all []string) {
	for k := range m {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

// sysctls shows the settings that plugins make.
const sysctls = `cd /proc/sys/net && grep -s . ipv4/ip_forward ipv6/conf/all/forwarding ipv4/conf/*/arp_notify ipv4/conf/*/route_localnet ipv6/conf/*/accept_ra \
	ipv6/conf/*/accept_dad ipv6/conf/*/enhanced_dad ipv6/conf/*/disable_ipv6 ipv6/conf/*/keep_addr_on_down`

// files lists host-local's.
func (h *host) files() string {
	var b strings.Builder
	err := filepath.WalkDir(filepath.Join(h.dir, "ipam"), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %s", info.Mode(), path)
		if d.Type().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %q", data)
		}
		b.WriteString("\n")
		return nil
	})
	if err != nil {
		h.t.Error(err)
	}
	return b.String()
}

// changing is what differs each time, and what stands for it.
var changing = []struct {
	what *regexp.Regexp
	as   string
}{
	{regexp.MustCompile(`(?m)^#.*\n`), ""},
	// Come when the kernel has time, and has found an address to be unique.
	{regexp.MustCompile(`(?m)^ *(inet6 fe80|fe80|multicast ff00|(local|anycast) f[cde]).*\n`), ""},
	{regexp.MustCompile(`(?m)^ +valid_lft .*\n`), ""},
	{regexp.MustCompile(`\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b`), "MAC"},
	{regexp.MustCompile(`\b[0-9a-f]{4}\.(MAC|[0-9a-f:]+)\b`), "BRIDGE"},
	{regexp.MustCompile(`\bveth[0-9a-f]{8}\b`), "veth"},
	{regexp.MustCompile(`(?m)^\d+: `), ""},
	{regexp.MustCompile(`@if\d+`), ""},
	{regexp.MustCompile(`link-netnsid \d+`), "link-netnsid N"},
	{regexp.MustCompile(`_timer +[0-9.]+`), "_timer"},
	{regexp.MustCompile(`(hello|forward_delay|max_age|message_age|topology_change)_timer`), "$1"},
	{regexp.MustCompile(`counter packets \d+ bytes \d+`), "counter"},
	{regexp.MustCompile(`\[\d+:\d+\]`), "[N]"},
	{regexp.MustCompile(` tentative\b`), ""},
	// The kernel notes a little later whether there is a carrier.
	{regexp.MustCompile(`NO-CARRIER,|,LOWER_UP| state (UP|DOWN|UNKNOWN|LOWERLAYERDOWN)| linkdown`), ""},
	{regexp.MustCompile(`(?m) +$`), ""},
}

func plain(text string) string {
	for _, c := range changing {
		text = c.what.ReplaceAllString(text, c.as)
	}
	return text
}

// plainResult is a result without MAC addresses and names that differ each time.
func plainResult(h *host, text string) string { return strings.ReplaceAll(plain(text), h.dir, "DIR") }

// wantSame compares line by line.
func wantSame(t testing.TB, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	var diff []string
	for _, l := range w {
		if count(w, l) > count(g, l) {
			diff = append(diff, "- "+l)
		}
	}
	for _, l := range g {
		if count(g, l) > count(w, l) {
			diff = append(diff, "+ "+l)
		}
	}
	if len(diff) == 0 {
		diff = []string{"the order differs", "wanted", want, "got", got}
	}
	t.Errorf("%s differs:\n%s", what, strings.Join(diff, "\n"))
}

func count(lines []string, l string) (n int) {
	for _, x := range lines {
		if x == l {
			n++
		}
	}
	return n
}

// onThread runs f on a thread that ends with it.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // no unlock
		f()
	}()
	<-done
}
