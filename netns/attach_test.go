package netns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"
)

// A node is a host of the test's own with the real plugins and the embedded
// network.
type node struct {
	t      *testing.T
	ns     *Namespaces
	net    *Network
	ipam   string
	bridge string
}

func newNode(t *testing.T) *node {
	t.Helper()
	inHostOfItsOwn(t)
	bin := realPlugins(t)
	ns, _ := namespaces(t)
	h := &node{t: t, ns: ns, bridge: "brtest0"}
	h.net = openNetwork(t, Options{ConfDir: filepath.Join(t.TempDir(), "net.d"), BinDirs: []string{bin}, Embedded: true, Bridge: h.bridge})
	h.ipam = filepath.Join(h.net.o.CacheDir, "ipam", embeddedName)
	until(t, h.net, "the plugins have answered", func() bool { return h.net.Ready() == nil })
	return h
}

// pod makes a pod's namespace and says how it is to be attached.
func (h *node) pod(id string) Attachment {
	h.t.Helper()
	p, err := h.ns.Create(limited(h.t), id, Kinds{Net: true})
	if err != nil {
		h.t.Fatal(err)
	}
	conf, err := h.net.Conf()
	if err != nil {
		h.t.Fatal(err)
	}
	return Attachment{PodID: id, Name: "web", Namespace: "default", UID: "uid-" + id, NetnsPath: p.Net, Conf: conf}
}

func (h *node) attach(a Attachment) Result {
	h.t.Helper()
	r, err := h.net.Attach(limited(h.t), a)
	if err != nil {
		h.t.Fatal(err)
	}
	if len(r.IPs) == 0 || r.Interface != "eth0" {
		h.t.Fatalf("result %+v", r)
	}
	return r
}

func (h *node) remove(a Attachment) {
	h.t.Helper()
	if err := h.net.Detach(limited(h.t), a); err != nil {
		h.t.Error(err)
	}
	if err := h.ns.Remove(h.t.Context(), a.PodID); err != nil {
		h.t.Error(err)
	}
}

// left says what is there of pods: addresses, results, rules, interfaces.
func (h *node) left() string {
	h.t.Helper()
	var left []string
	for _, dir := range []string{h.ipam, filepath.Join(h.net.o.CacheDir, "results")} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			h.t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() != "lock" && !strings.HasPrefix(e.Name(), "last_reserved_ip") {
				left = append(left, e.Name())
			}
		}
	}
	for _, link := range links(h.t) {
		if link != "lo" && link != h.bridge {
			left = append(left, link)
		}
	}
	out, err := exec.Command("iptables-save", "-t", "nat").CombinedOutput()
	if err != nil {
		h.t.Fatalf("iptables-save: %v: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		// portmap leaves its empty top chains; what names a pod does not stay.
		if strings.Contains(line, "uid") || strings.Contains(line, ":CNI-") && !strings.Contains(line, ":CNI-HOSTPORT-") || strings.Contains(line, "dport") {
			left = append(left, strings.TrimSpace(line))
		}
	}
	return strings.Join(left, "\n")
}

func (h *node) wantNothingLeft() {
	h.t.Helper()
	if left := h.left(); left != "" {
		h.t.Errorf("left behind:\n%s", left)
	}
}

func TestAttach(t *testing.T) {
	h := newNode(t)
	a, b := h.pod("pod-a"), h.pod("pod-b")
	a.PortMappings = []PortMapping{{HostPort: 18080, ContainerPort: 80, Protocol: "TCP"}, {ContainerPort: 81}}
	a.Annotations = map[string]string{IPsAnnotation: "10.88.0.77"}
	ra := h.attach(a)
	if len(ra.IPs) != 1 || ra.IPs[0] != "10.88.0.77" {
		t.Errorf("the address asked for was not given: %v", ra.IPs)
	}
	rb := h.attach(b)
	if rb.IPs[0] == ra.IPs[0] {
		t.Errorf("both have %v", ra.IPs)
	}

	var l net.Listener
	within(t, func() (err error) { l, err = net.Listen("tcp4", ":80"); return err }, a.NetnsPath)
	if l == nil {
		t.FailNow()
	}
	defer l.Close()
	go serve(l, "pod-a")
	get := func(from, addr string) error {
		c, err := net.DialTimeout("tcp4", addr, testLimit)
		if err != nil {
			return fmt.Errorf("from %s: %w", from, err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(testLimit))
		if text, err := io.ReadAll(c); err != nil || string(text) != "pod-a" {
			return fmt.Errorf("from %s: %q, %v", from, text, err)
		}
		return nil
	}
	if err := get("the host", ra.IPs[0]+":80"); err != nil {
		t.Error(err)
	}
	if err := get("the host, by its port", "127.0.0.1:18080"); err != nil {
		t.Error(err)
	}
	within(t, func() error { return get("another pod", ra.IPs[0]+":80") }, b.NetnsPath)
	within(t, func() error { return get("another pod, by the host's port", "10.88.0.1:18080") }, b.NetnsPath)

	h.remove(a)
	h.remove(b)
	h.wantNothingLeft()
	for range 2 {
		h.remove(a) // again
	}
}

func TestAttachLimitsBandwidth(t *testing.T) {
	h := newNode(t)
	a := h.pod("pod-a")
	a.Annotations = map[string]string{EgressAnnotation: "10M", IngressAnnotation: "20M"}
	h.attach(a)
	out, err := exec.Command("tc", "qdisc", "show").CombinedOutput()
	if err != nil || strings.Count(string(out), "qdisc tbf") != 2 || !strings.Contains(string(out), "rate 10Mbit") || !strings.Contains(string(out), "rate 20Mbit") {
		t.Errorf("tc: %v\n%s", err, out)
	}
	h.remove(a)
	h.wantNothingLeft()
}

func TestDetachWithoutTheNamespace(t *testing.T) {
	h := newNode(t)
	a := h.pod("pod-a")
	a.PortMappings = []PortMapping{{HostPort: 18080, ContainerPort: 80}}
	h.attach(a)
	if err := h.ns.Remove(t.Context(), a.PodID); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(h.net.o.ConfDir, "10.conflist"), "{") // nor its configuration
	if err := h.net.Detach(limited(t), a); err != nil {
		t.Fatal(err)
	}
	a.NetnsPath = ""
	if err := h.net.Detach(limited(t), a); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{h.ipam, filepath.Join(h.net.o.CacheDir, "results")} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if e.Name() != "lock" && !strings.HasPrefix(e.Name(), "last_reserved_ip") {
				t.Errorf("left behind: %s", e.Name())
			}
		}
	}
}

func TestDetachAfterHalfAnAttach(t *testing.T) {
	h := newNode(t)
	bin := t.TempDir()
	script(t, bin, "fail", `[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"code":11,"msg":"the controller is away"}'; exit 1`)
	h.net.o.BinDirs = append(h.net.o.BinDirs, bin)
	h.net.cni = libcni.NewCNIConfigWithCacheDir(h.net.o.BinDirs, h.net.o.CacheDir, h.net.exec)

	a := h.pod("pod-a")
	a.PortMappings = []PortMapping{{HostPort: 18080, ContainerPort: 80}}
	a.Conf = withPlugin(t, a.Conf, `{"type":"fail"}`)
	_, err := h.net.Attach(limited(t), a)
	if !says(err, "pod pod-a: network berth: ", "fail", "the controller is away") {
		t.Fatalf("Attach = %v", err)
	}
	if h.left() == "" {
		t.Fatal("nothing was made before the failure")
	}
	h.remove(a)
	h.wantNothingLeft()
}

// withPlugin adds a plugin to the end of a list.
func withPlugin(t *testing.T, conf []byte, plugin string) []byte {
	t.Helper()
	var list map[string]any
	if err := json.Unmarshal(conf, &list); err != nil {
		t.Fatal(err)
	}
	list["plugins"] = append(list["plugins"].([]any), json.RawMessage(plugin))
	out, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// fakes opens a network whose plugins are shell scripts that write down how they
// were called.
func fakes(t *testing.T, plugins map[string]string) (n *Network, log string) {
	t.Helper()
	bin := t.TempDir()
	log = filepath.Join(bin, "log")
	for name, body := range plugins {
		script(t, bin, name, `echo "$CNI_COMMAND `+name+` $CNI_CONTAINERID $CNI_NETNS" >>`+log+"\n"+body)
	}
	return openNetwork(t, Options{ConfDir: filepath.Join(bin, "net.d"), BinDirs: []string{bin}}), log
}

func calls(t *testing.T, log string) string {
	t.Helper()
	data, err := os.ReadFile(log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	os.Remove(log)
	return strings.TrimSpace(string(data))
}

const address = `[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion":"1.0.0","interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.1.0.5/24","interface":1}]}'`

// passOn answers ADD with an address, and goes on otherwise.
const passOn = `if [ "$CNI_COMMAND" = ADD ]; then echo '{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.5/24"}]}'; exit 0; fi
`

func TestDetachRunsEveryPlugin(t *testing.T) {
	n, log := fakes(t, map[string]string{
		"first": address, "second": passOn + `echo '{"code":7,"msg":"cannot"}'; exit 1`, "third": passOn,
	})
	a := Attachment{PodID: "pod1", NetnsPath: "/proc/self/ns/net", Conf: []byte(conflist("1.0.0", "x", "first", "second", "third"))}
	rt := &libcni.RuntimeConf{ContainerID: "pod1", IfName: podInterface}
	list, err := parseList(a.Conf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Attach(limited(t), a); err != nil {
		t.Fatal(err)
	}
	calls(t, log)
	for range 2 {
		err := n.Detach(limited(t), a)
		if !says(err, "pod pod1: network x: DEL: plugin second: cannot") {
			t.Errorf("Detach = %v", err)
		}
		if got, want := calls(t, log), "DEL third pod1 /proc/self/ns/net\nDEL second pod1 /proc/self/ns/net\nDEL first pod1 /proc/self/ns/net"; got != want {
			t.Errorf("ran\n%s\nwant\n%s", got, want)
		}
		if r, err := n.cni.GetNetworkListCachedResult(list, rt); r == nil || err != nil {
			t.Errorf("the cached result is gone after a DEL that failed: %v", err)
		}
	}
	os.Remove(filepath.Join(n.o.BinDirs[0], "third"))
	os.Remove(filepath.Join(n.o.BinDirs[0], "first"))
	if err := n.Detach(limited(t), a); !says(err, `"third": no such program in`, "second: cannot", `"first": no such program in`) {
		t.Errorf("without the programs: %v", err)
	}
	script(t, n.o.BinDirs[0], "second", "exit 0")
	script(t, n.o.BinDirs[0], "third", "exit 0")
	if err := n.Detach(limited(t), a); !says(err, `"first": no such program in`) || says(err, "third") {
		t.Errorf("without one: %v", err)
	}
	script(t, n.o.BinDirs[0], "first", "exit 0")
	if err := n.Detach(limited(t), a); err != nil {
		t.Errorf("with all: %v", err)
	}
	if r, _ := n.cni.GetNetworkListCachedResult(list, rt); r != nil {
		t.Error("the cached result stays after a DEL that succeeded")
	}
}

func TestDetachOfNothing(t *testing.T) {
	n, log := fakes(t, map[string]string{"first": "exit 0"})
	for _, a := range []Attachment{
		{PodID: "pod1"},
		{PodID: "../pod1", Conf: []byte(conflist("1.0.0", "x", "first"))},
		{PodID: "pod1", Name: "a;b", Conf: []byte(conflist("1.0.0", "x", "first"))},
	} {
		if err := n.Detach(limited(t), a); err != nil {
			t.Errorf("Detach(%+v) = %v", a, err)
		}
		if got := calls(t, log); got != "" {
			t.Errorf("ran %s", got)
		}
	}
	// A namespace that is gone is none.
	gone := Attachment{PodID: "pod1", NetnsPath: filepath.Join(t.TempDir(), "net"), Conf: []byte(conflist("1.0.0", "x", "first"))}
	if err := n.Detach(limited(t), gone); err != nil {
		t.Error(err)
	}
	if got := calls(t, log); got != "DEL first pod1" {
		t.Errorf("ran %q", got)
	}
	write(t, gone.NetnsPath, "") // a pin's file without its mount
	if err := n.Detach(limited(t), gone); err != nil || calls(t, log) != "DEL first pod1" {
		t.Error("ran with a file that is no namespace", err)
	}
	// What Attach refused for its ports may be detached: the plugins run without.
	a := Attachment{PodID: "pod1", NetnsPath: "/proc/self/ns/net", Conf: []byte(conflist("1.0.0", "x", "first")), PortMappings: []PortMapping{{HostPort: 80}}}
	if _, err := n.Attach(limited(t), a); !errors.Is(err, ErrInvalid) || calls(t, log) != "" {
		t.Errorf("Attach = %v", err)
	}
	if err := n.Detach(limited(t), a); err != nil || calls(t, log) == "" {
		t.Errorf("Detach = %v", err)
	}
}

func TestDeadlineKillsThePluginAndItsChildren(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "alive") // has a writer as long as one of them lives
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	n, _ := fakes(t, map[string]string{"hang": "exec 3>" + fifo + "\nsleep 1000 & sleep 1000"})
	n.o.Deadline = 300 * time.Millisecond
	a := Attachment{PodID: "pod1", NetnsPath: "/proc/self/ns/net", Conf: []byte(conflist("1.0.0", "x", "hang"))}
	ended := make(chan error, 1)
	go func() {
		f, err := os.Open(fifo)
		if err == nil {
			_, err = io.ReadAll(f)
			f.Close()
		}
		ended <- err
	}()
	_, err := n.Attach(limited(t), a)
	if !errors.Is(err, context.DeadlineExceeded) || !says(err, "CNI plugin hang: no answer, killed: CNI ADD: not done in 300ms") {
		t.Errorf("Attach = %v", err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(testLimit):
		t.Error("the plugin's children live on")
	}
}

func TestPluginThatLeavesAChildBehind(t *testing.T) {
	n, _ := fakes(t, map[string]string{"first": "sleep 1000 &\nchild=$!\n" + `echo $child >"$0.pid"` + "\n" + address})
	a := Attachment{PodID: "pod1", NetnsPath: "/proc/self/ns/net", Conf: []byte(conflist("1.0.0", "x", "first"))}
	r, err := n.Attach(limited(t), a)
	if err != nil || len(r.IPs) != 1 || r.IPs[0] != "10.1.0.5" {
		t.Errorf("Attach = %v, %v", r, err)
	}
	data, _ := os.ReadFile(filepath.Join(n.o.BinDirs[0], "first.pid"))
	var pid int
	fmt.Sscan(string(data), &pid)
	if pid > 1 {
		unix.Kill(pid, unix.SIGKILL)
	}
}

func TestAttachPassesArguments(t *testing.T) {
	n, _ := fakes(t, map[string]string{"first": `cat >"$0.stdin"; echo "$CNI_ARGS" >"$0.args"; echo "$CNI_IFNAME $CNI_PATH" >>"$0.args"` + "\n" + address})
	a := Attachment{
		PodID: "pod1", Name: "web-0", Namespace: "shop", UID: "u-1", NetnsPath: "/proc/self/ns/net",
		Conf:         []byte(`{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"first","capabilities":{"portMappings":true,"io.kubernetes.cri.pod-annotations":true,"dns":false}}]}`),
		PortMappings: []PortMapping{{HostPort: 80, ContainerPort: 8080}},
		DNS:          DNS{Servers: []string{"10.0.0.1"}},
		Annotations:  map[string]string{"k": "v"},
		CgroupPath:   "/kubepods/x",
	}
	if _, err := n.Attach(limited(t), a); err != nil {
		t.Fatal(err)
	}
	bin := n.o.BinDirs[0]
	args, _ := os.ReadFile(filepath.Join(bin, "first.args"))
	if want := "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=pod1;K8S_POD_UID=u-1\neth0 " + bin + "\n"; string(args) != want {
		t.Errorf("arguments %q, want %q", args, want)
	}
	stdin, _ := os.ReadFile(filepath.Join(bin, "first.stdin"))
	var conf struct{ RuntimeConfig json.RawMessage }
	if err := json.Unmarshal(stdin, &conf); err != nil {
		t.Fatal(err)
	}
	if want := `{"io.kubernetes.cri.pod-annotations":{"k":"v"},"portMappings":[{"hostPort":80,"containerPort":8080,"protocol":"tcp"}]}`; string(conf.RuntimeConfig) != want {
		t.Errorf("runtimeConfig %s\nwant %s", conf.RuntimeConfig, want)
	}
}

func TestAttachReadsResults(t *testing.T) {
	tests := []struct {
		name, result string
		want         string // addresses; "": an error
	}{
		{"one address", `"interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.1.0.5/24","interface":0}]`, "10.1.0.5"},
		{"the plugin's order is kept, one of each family", `"ips":[{"address":"fd00::5/64"},{"address":"10.1.0.5/24"},{"address":"fd00::6/64"},{"address":"10.1.0.6/24"}]`, "fd00::5 10.1.0.5"},
		{"other interfaces are not the pod's", `"interfaces":[{"name":"eth0"},{"name":"net1","sandbox":"/x"},{"name":"eth0","sandbox":"/x"}],
			"ips":[{"address":"10.1.0.1/24","interface":0},{"address":"10.2.0.5/24","interface":1},{"address":"10.1.0.5/24","interface":2},{"address":"10.9.0.5/24","interface":7}]`, "10.1.0.5"},
		{"no address", `"ips":[]`, ""},
		{"none of the pod's", `"interfaces":[{"name":"eth0"}],"ips":[{"address":"10.1.0.5/24","interface":0}]`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, _ := fakes(t, map[string]string{"first": "cat <<'X'\n{\"cniVersion\":\"1.0.0\"," + tt.result + "}\nX"})
			r, err := n.Attach(limited(t), Attachment{PodID: "pod1", NetnsPath: "/proc/self/ns/net", Conf: []byte(conflist("1.0.0", "x", "first"))})
			if (err != nil) != (tt.want == "") || strings.Join(r.IPs, " ") != tt.want {
				t.Errorf("%v, %v; want %q", r.IPs, err, tt.want)
			}
		})
	}
}

func TestPluginErrors(t *testing.T) {
	tests := []struct{ name, body, want string }{
		{"by the spec", `echo '{"code":11,"msg":"try again","details":"later"}'; exit 1`, "try again; later"},
		{"on stderr", `echo "panic: oops" >&2; exit 2`, "CNI plugin first: exit status 2: panic: oops"},
		{"text on stdout", `echo "oops"; exit 2`, "CNI plugin first: exit status 2: not a CNI error: oops"},
		{"nothing", `exit 3`, "CNI plugin first: exit status 3: it gave no reason"},
		{"killed", `kill -9 $$`, "CNI plugin first: signal: killed: it gave no reason"},
		{"endless", `exec head -c 5000000 /dev/zero`, "invalid character"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, _ := fakes(t, map[string]string{"first": tt.body})
			_, err := n.Attach(limited(t), Attachment{PodID: "pod1", NetnsPath: "/proc/self/ns/net", Conf: []byte(conflist("1.0.0", "x", "first"))})
			if !says(err, tt.want) {
				t.Errorf("Attach = %.300v, want %s", err, tt.want)
			}
		})
	}
}

func TestCapped(t *testing.T) {
	var c capped
	for range 3 {
		if n, err := c.Write(make([]byte, pluginOutputLimit/2+1)); n != pluginOutputLimit/2+1 || err != nil {
			t.Error(n, err)
		}
	}
	if c.Len() != pluginOutputLimit {
		t.Errorf("kept %d bytes", c.Len())
	}
}

func TestGC(t *testing.T) {
	n, log := fakes(t, map[string]string{
		"first": address + "\n", "now": `[ "$CNI_COMMAND" = GC ] && cat >"$0.stdin"; exit 0`, "stuck": passOn + "exit 1",
	})
	attach := func(id string, types ...string) Attachment {
		a := Attachment{PodID: id, NetnsPath: "/proc/self/ns/net", Conf: []byte(conflist("1.0.0", "x", types...))}
		if _, err := n.Attach(limited(t), a); err != nil {
			t.Fatal(err)
		}
		return a
	}
	keep := attach("keep", "first")
	attach("gone", "first")
	attach("hard", "first", "stuck")
	write(t, filepath.Join(n.o.ConfDir, "10.conflist"), conflist("1.1.0", "x", "now"))
	until(t, n, "there is another configuration", func() bool { return n.Ready() == nil })
	calls(t, log)

	if err := n.GC(limited(t), nil); err != nil || calls(t, log) != "GC now" {
		t.Errorf("GC of pods that this process has attached: %v", err)
	}
	n = openNetwork(t, n.o) // the daemon was started again
	until(t, n, "the configuration is there", func() bool { return n.Ready() == nil })
	calls(t, log)

	err := n.GC(limited(t), []Attachment{keep})
	if !says(err, "pod hard: network x: DEL: plugin stuck: ") || says(err, "gone") {
		t.Errorf("GC = %v", err)
	}
	want := "DEL first gone /proc/self/ns/net\nDEL stuck hard /proc/self/ns/net\nDEL first hard /proc/self/ns/net\nGC now"
	if got := calls(t, log); got != want {
		t.Errorf("ran\n%s\nwant\n%s", got, want)
	}
	stdin, _ := os.ReadFile(filepath.Join(n.o.BinDirs[0], "now.stdin"))
	if want := `"cni.dev/valid-attachments":[{"containerID":"keep","ifname":"eth0"},{"containerID":"hard","ifname":"eth0"}]`; !strings.Contains(string(stdin), want) {
		t.Errorf("the plugin was told %s, want %s", stdin, want)
	}
	script(t, n.o.BinDirs[0], "stuck", "exit 0")
	if err := n.GC(limited(t), nil); err != nil {
		t.Errorf("GC of all = %v", err)
	}
	if left, _ := os.ReadDir(filepath.Join(n.o.CacheDir, "results")); len(left) > 0 {
		t.Errorf("results left: %v", left)
	}
}

func TestGCRunsAlone(t *testing.T) {
	dir := t.TempDir()
	gate := filepath.Join(dir, "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	n, log := fakes(t, map[string]string{"first": `[ "$CNI_COMMAND" = GC ] && exit 0; read x <` + gate + `; echo "ADD done" >>"$(dirname "$0")/log"` + "\n" + address})
	a := Attachment{PodID: "pod1", NetnsPath: "/proc/self/ns/net", Conf: []byte(conflist("1.1.0", "x", "first"))}
	attached := make(chan error, 1)
	go func() { _, err := n.Attach(limited(t), a); attached <- err }()
	f, err := os.OpenFile(gate, os.O_WRONLY, 0) // returns when the plugin runs
	if err != nil {
		t.Fatal(err)
	}
	collected := make(chan error, 1)
	go func() { collected <- n.GC(limited(t), []Attachment{a}) }()
	select {
	case err := <-collected:
		t.Errorf("GC did not wait for ADD: %v", err)
	default:
	}
	f.Close()
	if err := <-attached; err != nil {
		t.Error(err)
	}
	if err := <-collected; err != nil {
		t.Error(err)
	}
	if got, want := calls(t, log), "ADD first pod1 /proc/self/ns/net\nADD done\nGC first"; got != want {
		t.Errorf("ran %q", got)
	}
}
