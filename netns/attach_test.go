package netns

import (
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

func newNode(t *testing.T, w way) *node {
	t.Helper()
	inHostOfItsOwn(t)
	bin := realPlugins(t)
	if w == withoutPrograms {
		bin = t.TempDir()
	}
	ns, _ := namespaces(t)
	h := &node{t: t, ns: ns, bridge: "brtest0"}
	h.net = openNetwork(t, Options{ConfDir: filepath.Join(t.TempDir(), "net.d"), BinDirs: []string{bin}, Embedded: true, Bridge: h.bridge, InProcess: w != byPrograms})
	h.ipam = filepath.Join(h.net.o.CacheDir, "ipam", embeddedName)
	until(t, h.net, "the plugins have answered", func() bool { return h.net.Ready() == nil })
	return h
}

// A way is how the reference plugins are called.
type way string

const (
	byPrograms      way = "by programs"
	inProcess       way = "in process"
	withoutPrograms way = "in process, without programs"
)

// onNodes runs a test on a node of each kind.
func onNodes(t *testing.T, test func(*testing.T, *node), ways ...way) {
	for _, w := range ways {
		t.Run(string(w), func(t *testing.T) { test(t, newNode(t, w)) })
	}
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
	if p := h.net.exec.reference; p != nil { // DEL has only retired the interface
		p.Sweep()
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

func TestAttach(t *testing.T) { onNodes(t, testAttach, byPrograms, inProcess, withoutPrograms) }

func testAttach(t *testing.T, h *node) {
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
	onNodes(t, testAttachLimitsBandwidth, byPrograms, inProcess)
}

func testAttachLimitsBandwidth(t *testing.T, h *node) {
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
	onNodes(t, testDetachWithoutTheNamespace, byPrograms, inProcess, withoutPrograms)
}

func testDetachWithoutTheNamespace(t *testing.T, h *node) {
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
	onNodes(t, testDetachAfterHalfAnAttach, byPrograms, inProcess, withoutPrograms)
}

func testDetachAfterHalfAnAttach(t *testing.T, h *node) {
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
