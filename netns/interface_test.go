package netns

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestInterfaces(t *testing.T) {
	needRoot(t)
	ns, _ := namespaces(t)
	p, err := ns.Create(limited(t), "pod", Kinds{Net: true})
	if err != nil {
		t.Fatal(err)
	}
	if list, err := Interfaces(limited(t), p.Net); err != nil || len(list) != 0 {
		t.Fatalf("a pod with loopback alone: %v, %v", list, err)
	}
	within(t, func() error {
		for _, name := range []string{"aa0", "eth0"} {
			link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "peer"}
			if err := netlink.LinkAdd(link); err != nil {
				return err
			}
			if err := netlink.LinkSetUp(link); err != nil {
				return err
			}
			peer, err := netlink.LinkByName(name + "peer")
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(peer); err != nil { // IPv6 router solicitations and such count
				return err
			}
		}
		return nil
	}, p.Net)
	list, err := Interfaces(limited(t), p.Net)
	if err != nil || len(list) != 4 {
		t.Fatalf("%+v, %v", list, err)
	}
	for i, want := range []string{"eth0", "aa0peer"} {
		if list[i].Name != want || list[i].Default != (i == 0) {
			t.Errorf("place %d: %+v, want %s", i, list[i], want)
		}
	}
	if err := ns.Remove(limited(t), "pod"); err != nil {
		t.Error(err)
	}
	if _, err := Interfaces(limited(t), filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a namespace that is not there: %v", err)
	}
}

func TestCounted(t *testing.T) {
	link := func(name string, stats *netlink.LinkStatistics) netlink.Link {
		return &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: name, Statistics: stats}}
	}
	list := counted([]netlink.Link{
		link("lo", &netlink.LinkStatistics{RxBytes: 9}),
		link("net1", &netlink.LinkStatistics{RxBytes: 1, RxPackets: 2, RxErrors: 3, RxDropped: 4, TxBytes: 5, TxPackets: 6, TxErrors: 7, TxDropped: 8}),
		link("silent", nil),
	})
	want := Interface{Name: "net1", Default: true, RxBytes: 1, RxPackets: 2, RxErrors: 3, RxDropped: 4, TxBytes: 5, TxPackets: 6, TxErrors: 7, TxDropped: 8}
	if len(list) != 1 || list[0] != want {
		t.Errorf("%+v", list)
	}
}

// A caller that has given up already costs no thread.
func TestInterfacesOfNobody(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	before := len(readers)
	for range 100 {
		if _, err := Interfaces(ctx, "/nowhere"); !errors.Is(err, context.Canceled) {
			t.Fatalf("%v, want context.Canceled", err)
		}
	}
	if len(readers) != before {
		t.Errorf("%d readers, %d before", len(readers), before)
	}
}
