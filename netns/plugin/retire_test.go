package plugin

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
)

// retiring is a chain of one bridge with addresses for few.
func retiring() chain {
	return chain{conf: plugins(bridgeWith(`"isGateway": true, "ipam": {"type": "host-local", "dataDir": "DIR/ipam",
		"ranges": [[{"subnet": "10.7.0.0/30"}]]}`))}
}

// retired are the interfaces of the host that are to be taken away.
func (h *host) retired() (names []string) {
	h.t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, l := range links {
		if l.Attrs().Group == retiredGroup {
			names = append(names, l.Attrs().Name)
		}
	}
	return names
}

// unhurried has retired n interfaces, and does not sweep by itself.
func unhurried(t *testing.T, n int) *Plugins {
	t.Helper()
	host, err := ns.GetCurrentNS()
	if err != nil {
		t.Fatal(err)
	}
	return &Plugins{retired: retirement{n: n, host: host, late: time.NewTimer(time.Hour)}}
}

// An address can be given to another pod while the interface is still there that had it.
func TestRetired(t *testing.T) {
	h := newHost(t)
	us := byUs(unhurried(t, 0))
	for i := range 5 { // there is one address
		id := fmt.Sprintf("pod%d", i)
		h.pod(id)
		if _, err := h.add(us, retiring(), id); err != nil {
			t.Fatal(err)
		}
		if err := h.cni(us).DelNetworkList(limited(t), h.list(retiring()), h.runtimeConf(retiring(), id)); err != nil {
			t.Fatal(err)
		}
		if text := h.said(id, "ip", "-4", "addr", "show", "eth0"); strings.Contains(text, "inet") {
			t.Errorf("it has addresses still: %s", text)
		}
	}
	if names := h.retired(); len(names) != 5 {
		t.Errorf("retired: %v", names)
	}
	// A daemon that comes after another, which knows nothing of them.
	(&Plugins{}).Sweep()
	if names := h.retired(); len(names) != 0 {
		t.Errorf("after a sweep: %v", names)
	}
	us.sweep()
}

// There are never more than so many: who retires another waits until all are gone.
func TestRetiredMost(t *testing.T) {
	h := newHost(t)
	us := byUs(unhurried(t, retiredMost-2))
	for i, want := range []int{1, 0} {
		id := fmt.Sprintf("pod%d", i)
		h.pod(id)
		if _, err := h.add(us, retiring(), id); err != nil {
			t.Fatal(err)
		}
		if err := h.cni(us).DelNetworkList(limited(t), h.list(retiring()), h.runtimeConf(retiring(), id)); err != nil {
			t.Fatal(err)
		}
		if names := h.retired(); len(names) != want {
			t.Errorf("retired: %v, want %d", names, want)
		}
	}
}

// What is no port of a bridge of this host is taken away at once.
func TestNotRetired(t *testing.T) {
	h := newHost(t)
	us := byUs(&Plugins{})
	h.pod("pod1")
	h.said("pod1", "sh", "-c", "ip link add eth0 type bridge && ip addr add 10.7.0.9/24 dev eth0")
	if err := h.cni(us).DelNetworkList(limited(t), h.list(retiring()), h.runtimeConf(retiring(), "pod1")); err != nil {
		t.Fatal(err)
	}
	if text := h.said("pod1", "ip", "link"); strings.Contains(text, "eth0") {
		t.Errorf("left behind: %s", text)
	}
	h.pod("pod2")
	h.said("", "sh", "-c", "ip link add alone type veth peer name eth0 netns "+h.pods["pod2"]+" && ip link set alone up")
	if err := h.cni(us).DelNetworkList(limited(t), h.list(retiring()), h.runtimeConf(retiring(), "pod2")); err != nil {
		t.Fatal(err)
	}
	if _, err := net.InterfaceByName("alone"); err == nil {
		t.Error("an interface that is no port was not taken away")
	}
}
