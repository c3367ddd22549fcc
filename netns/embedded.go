package netns

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// embeddedName is the name of berth's own network.
const embeddedName = "berth"

// embeddedRanges are tried in this order: the range that other runtimes use for
// such a network, then some that are rarely in use.
var embeddedRanges = []netip.Prefix{
	netip.MustParsePrefix("10.88.0.0/16"),
	netip.MustParsePrefix("10.89.0.0/16"),
	netip.MustParsePrefix("10.213.0.0/16"),
	netip.MustParsePrefix("172.29.0.0/16"),
	netip.MustParsePrefix("172.30.0.0/16"),
	netip.MustParsePrefix("192.168.213.0/24"),
}

// embedded returns berth's own network: a bridge, addresses by host-local,
// masquerading, port mappings, and bandwidth limits where the plugin is there.
// It lives in memory and in the records of the pods that use it.
func (n *Network) embedded() ([]byte, error) {
	subnet, err := pickRange(n.o.Bridge)
	if err != nil {
		return nil, err
	}
	plugins := []map[string]any{
		{
			"type": "bridge", "bridge": n.o.Bridge,
			"isGateway": true, "ipMasq": true, "hairpinMode": true,
			"capabilities": map[string]bool{"ips": true},
			"ipam": map[string]any{
				"type":    "host-local",
				"ranges":  [][]map[string]string{{{"subnet": subnet.String()}}},
				"routes":  []map[string]string{{"dst": "0.0.0.0/0"}},
				"dataDir": n.o.DataDir,
			},
		},
		{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}},
	}
	if _, err := program("bandwidth", n.o.BinDirs); err == nil {
		plugins = append(plugins, map[string]any{
			"type": "bandwidth", "capabilities": map[string]bool{"bandwidth": true},
		})
	}
	return json.Marshal(map[string]any{"cniVersion": "1.1.0", "name": embeddedName, "plugins": plugins})
}

// pickRange returns the range that the bridge has, or one that no address and no
// route of the host touches.
func pickRange(bridge string) (netip.Prefix, error) {
	index := -1
	if link, err := netlink.LinkByName(bridge); err == nil {
		index = link.Attrs().Index
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("list addresses: %w", err)
	}
	var taken []netip.Prefix
	for _, a := range addrs {
		p, ok := prefixOf(a.IPNet)
		if !ok {
			continue
		}
		if a.LinkIndex == index {
			if r, ok := rangeOf(p); ok {
				return r, nil
			}
		}
		taken = append(taken, p)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if p, ok := prefixOf(r.Dst); ok && p.Bits() > 0 {
			taken = append(taken, p)
		}
	}
	return freeRange(taken)
}

// rangeOf returns the range of ours that p, an address of the bridge, is from.
func rangeOf(p netip.Prefix) (netip.Prefix, bool) {
	for _, r := range embeddedRanges {
		if r == p.Masked() {
			return r, true
		}
	}
	return netip.Prefix{}, false
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits), true
}

func freeRange(taken []netip.Prefix) (netip.Prefix, error) {
next:
	for _, r := range embeddedRanges {
		for _, t := range taken {
			if r.Overlaps(t) {
				continue next
			}
		}
		return r, nil
	}
	return netip.Prefix{}, fmt.Errorf("every address range for a network of our own (%v) overlaps a route of this host", embeddedRanges)
}
