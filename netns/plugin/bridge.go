package plugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ip"
	"github.com/containernetworking/plugins/pkg/ipam"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/containernetworking/plugins/pkg/utils/sysctl"
	"github.com/vishvananda/netlink"

	"github.com/berthd/berth/crashpoint"
)

// A bridging is the connection of one pod to its bridge.
type bridging struct {
	*call
	p    *Plugins
	conf bridgeConf
	mac  string // that was asked for

	host netlinksafe.Handle
	pod  ns.NetNS
	br   *netlink.Bridge

	result              *types100.Result
	bridge, port, inner *types100.Interface // of the result: the bridge, the host's end and the pod's
}

// linkLimit is how long the kernel may take for one answer about links.
const linkLimit = 30 * time.Second

// addBridge connects the pod to the bridge, which it makes when there is none.
func (p *Plugins) addBridge(ctx context.Context, c *call) (types.Result, error) {
	conf, mac, err := readBridge(c)
	if err == nil {
		err = conf.check()
	}
	if err != nil {
		return nil, err
	}
	host, err := netlinksafe.NewHandle(routeNetlink)
	if err != nil {
		return nil, err
	}
	defer host.Close()
	if err := host.SetSocketTimeout(linkLimit); err != nil {
		return nil, err
	}
	b := &bridging{call: c, p: p, conf: conf, mac: mac, host: host}
	if err := b.ensureBridge(); err != nil {
		return nil, fmt.Errorf("failed to create bridge %q: %w", conf.Bridge, err)
	}
	if b.pod, err = ns.GetNS(c.netns); err != nil {
		return nil, fmt.Errorf("failed to open netns %q: %w", c.netns, err)
	}
	defer b.pod.Close()
	if err := ended(ctx, "making the pod's interface"); err != nil {
		return nil, err
	}
	if err := b.connect(); err != nil {
		return nil, err
	}
	if err := b.configure(ctx); err != nil {
		return nil, err
	}
	return b.result, nil
}

// ensureBridge makes the bridge unless it is there, and has it up.
func (b *bridging) ensureBridge() error {
	name := b.conf.Bridge
	br, err := b.findBridge()
	if _, absent := errors.AsType[netlink.LinkNotFoundError](err); absent {
		crashpoint.At("make link", "bridge")
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = name, b.conf.MTU
		if err := b.host.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("could not add %q: %w", name, err)
		}
		crashpoint.At("made link", "bridge")
		br, err = b.findBridge()
	}
	if err != nil {
		return err
	}
	if b.conf.PromiscMode {
		if err := b.host.SetPromiscOn(br); err != nil {
			return fmt.Errorf("could not set promiscuous mode on %q: %w", name, err)
		}
	}
	// Routes over it are this plugin's alone. A kernel without IPv6 has no such setting.
	_, _ = sysctl.Sysctl("net/ipv6/conf/"+name+"/accept_ra", "0")
	if br.Flags&net.FlagUp == 0 {
		if err := b.host.LinkSetUp(br); err != nil {
			return err
		}
	}
	b.br = br
	b.bridge = &types100.Interface{Name: name, Mac: br.HardwareAddr.String()}
	return nil
}

func (b *bridging) findBridge() (*netlink.Bridge, error) {
	link, err := b.host.LinkByName(b.conf.Bridge)
	if err != nil {
		return nil, fmt.Errorf("could not lookup %q: %w", b.conf.Bridge, err)
	}
	br, ok := link.(*netlink.Bridge)
	if !ok {
		return nil, fmt.Errorf("%q already exists but is not a bridge", b.conf.Bridge)
	}
	return br, nil
}

// connect makes the pod's interface, and a port of the bridge of its other end.
func (b *bridging) connect() error {
	crashpoint.At("make link", "veth")
	err := b.pod.Do(func(host ns.NetNS) error {
		outer, inner, err := ip.SetupVeth(b.ifName, b.conf.MTU, b.mac, host)
		if err != nil {
			return err
		}
		b.port = &types100.Interface{Name: outer.Name, Mac: outer.HardwareAddr.String()}
		b.inner = &types100.Interface{Name: inner.Name, Mac: inner.HardwareAddr.String(), Sandbox: b.netns}
		return nil
	})
	if err != nil {
		return err
	}
	crashpoint.At("made link", "veth")
	port, err := b.host.LinkByName(b.port.Name)
	if err != nil {
		return fmt.Errorf("failed to lookup %q: %w", b.port.Name, err)
	}
	if err := b.host.LinkSetMaster(port, b.br); err != nil {
		return fmt.Errorf("failed to connect %q to bridge %v: %w", b.port.Name, b.conf.Bridge, err)
	}
	if b.conf.HairpinMode { // a new port is not in it
		if err := b.host.LinkSetHairpin(port, true); err != nil {
			return fmt.Errorf("failed to setup hairpin mode for %v: %w", b.port.Name, err)
		}
	}
	if b.conf.PortIsolation {
		if err := b.host.LinkSetIsolated(port, true); err != nil {
			return fmt.Errorf("failed to set isolated on for %v: %w", b.port.Name, err)
		}
	}
	b.result = &types100.Result{CNIVersion: types100.ImplementedSpecVersion, Interfaces: []*types100.Interface{b.bridge, b.port, b.inner}}
	return nil
}

// configure gives the pod's interface its addresses, if it gets any, and has it up.
func (b *bridging) configure(ctx context.Context) error {
	switch {
	case b.conf.IPAM.Type != "":
		if err := b.p.withAddresses(ctx, b.call, func(given *types100.Result) error {
			b.result.IPs, b.result.Routes, b.result.DNS = given.IPs, given.Routes, given.DNS
			if err := b.address(ctx); err != nil {
				return err
			}
			return b.finish(ctx)
		}); err != nil {
			return err
		}
	case !b.conf.NoInterface:
		if err := b.pod.Do(func(ns.NetNS) error {
			link, err := netlinksafe.LinkByName(b.ifName)
			if err != nil {
				return fmt.Errorf("failed to retrieve link: %w", err)
			}
			return netlink.LinkSetUp(link)
		}); err != nil {
			return err
		}
		fallthrough
	default:
		if err := b.finish(ctx); err != nil {
			return err
		}
	}
	if hasDNS(b.conf.DNS) {
		b.result.DNS = b.conf.DNS
	}
	return nil
}

// address sets the addresses of the result in the pod, and those of gateways on the bridge.
func (b *bridging) address(ctx context.Context) error {
	gateways := b.gateways()
	if err := b.pod.Do(func(ns.NetNS) error {
		b.setSysctls()
		crashpoint.At("configure link", "veth")
		return ipam.ConfigureIface(b.ifName, b.result)
	}); err != nil {
		return err
	}
	crashpoint.At("configured link", "veth")
	if b.conf.IsGateway {
		for _, gw := range gateways {
			if err := b.ensureAddress(gw); err != nil {
				return fmt.Errorf("failed to set bridge addr: %w", err)
			}
		}
		if err := ip.EnableForward(b.result.IPs); err != nil {
			return fmt.Errorf("failed to enable forwarding: %w", err)
		}
	}
	if !b.conf.IPMasq {
		return nil
	}
	if err := ended(ctx, "setting masquerading"); err != nil {
		return err
	}
	return b.p.setMasquerade(ctx, b.call, b.masquerade(networks(b.result.IPs)))
}

func (b *bridging) masquerade(ips []*net.IPNet) masquerade {
	return masquerade{network: b.conf.Name, container: b.container, ifName: b.ifName, backend: b.conf.IPMasqBackend, ips: ips}
}

// setSysctls has a pod's new address known to its neighbours at once, and looked for by
// nobody before it is used, but if it is asked for. What the kernel has not is left.
func (b *bridging) setSysctls() {
	ipv6 := "net/ipv6/conf/" + b.ifName
	dad := "0"
	if b.conf.EnableDAD {
		dad = "1"
		_, _ = sysctl.Sysctl(ipv6+"/enhanced_dad", "1")
	}
	_, _ = sysctl.Sysctl(ipv6+"/accept_dad", dad)
	_, _ = sysctl.Sysctl("net/ipv4/conf/"+b.ifName+"/arp_notify", "1")
}

// gateways completes the result's addresses and routes, and lists the gateways, IPv4's first.
func (b *bridging) gateways() (all []*net.IPNet) {
	var v6 []*net.IPNet
	hasDefault := map[bool]bool{} // by whether it is IPv4's
	for _, ipc := range b.result.IPs {
		ipc.Interface = types100.Int(2)
		is4 := ipc.Address.IP.To4() != nil
		if ipc.Gateway == nil && b.conf.IsGateway {
			ipc.Gateway = ip.NextIP(ipc.Address.IP.Mask(ipc.Address.Mask))
		}
		if b.conf.IsDefaultGateway && !hasDefault[is4] {
			b.addDefaultRoute(is4, ipc.Gateway)
			hasDefault[is4] = true
		}
		if gw := (&net.IPNet{IP: ipc.Gateway, Mask: ipc.Address.Mask}); b.conf.IsGateway && is4 {
			all = append(all, gw)
		} else if b.conf.IsGateway {
			v6 = append(v6, gw)
		}
	}
	return append(all, v6...)
}

// addDefaultRoute adds a default route to the result, unless it has one with a gateway.
func (b *bridging) addDefaultRoute(is4 bool, gw net.IP) {
	all := net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	if is4 {
		all = net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	}
	for _, r := range b.result.Routes {
		if r.GW != nil && r.Dst.String() == all.String() {
			return
		}
	}
	b.result.Routes = append(b.result.Routes, &types.Route{Dst: all, GW: gw})
}

// ensureAddress gives the bridge a gateway's address. IPv4 has one on a bridge, and IPv6 one
// of each network.
func (b *bridging) ensureAddress(gw *net.IPNet) error {
	is4 := gw.IP.To4() != nil
	family := familyIPv6
	if is4 {
		family = familyIPv4
	}
	addrs, err := netlinksafe.AddrList(b.br, family)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("could not get list of IP addresses: %w", err)
	}
	for _, a := range addrs {
		if a.IPNet.String() == gw.String() {
			return nil
		}
		if !is4 && !a.Contains(gw.IP) && !gw.Contains(a.IP) {
			continue
		}
		if !b.conf.ForceAddress {
			return fmt.Errorf("%q already has an IP address different from %v", b.conf.Bridge, gw)
		}
		if err := b.host.AddrDel(b.br, &netlink.Addr{IPNet: a.IPNet}); err != nil {
			return fmt.Errorf("could not remove IP address from %q: %w", b.conf.Bridge, err)
		}
	}
	crashpoint.At("address link", "bridge")
	if err := b.host.AddrAdd(b.br, &netlink.Addr{IPNet: gw}); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("could not add IP address %s to %q: %w", gw, b.conf.Bridge, err)
	}
	// A bridge takes the lowest MAC address of its ports, and changes it with them, until it
	// has been given one.
	if err := b.host.LinkSetHardwareAddr(b.br, b.br.HardwareAddr); err != nil {
		return fmt.Errorf("could not set bridge's mac: %w", err)
	}
	return nil
}

// How long a new port is waited for to come up, at first with one look each millisecond.
const (
	portLimit = 2550 * time.Millisecond
	portPoll  = time.Millisecond
)

// finish waits for the bridge's port, and reads what may have changed meanwhile.
func (b *bridging) finish(ctx context.Context) error {
	port, err := b.host.LinkByName(b.port.Name)
	if err != nil {
		return err
	}
	end := time.Now().Add(portLimit)
	for pause := portPoll; !b.conf.NoInterface && port.Attrs().OperState != netlink.OperUp; pause = min(2*pause, 50*portPoll) {
		if time.Now().After(end) {
			return fmt.Errorf("bridge port in error state: %s", port.Attrs().OperState)
		}
		if err := wait(ctx, pause); err != nil {
			return fmt.Errorf("waiting for the bridge's port: %w", err)
		}
		if port, err = b.host.LinkByName(b.port.Name); err != nil {
			return err
		}
	}
	b.port.Mac = port.Attrs().HardwareAddr.String()
	br, err := b.findBridge()
	if err != nil {
		return err
	}
	b.bridge.Mac = br.HardwareAddr.String()
	return nil
}

// delBridge takes the pod's addresses off its interface and sees to it that this goes, then gives its addresses back, and stops the
// masquerading last.
func (p *Plugins) delBridge(ctx context.Context, c *call) (types.Result, error) {
	conf, _, err := readBridge(c)
	if err != nil {
		return nil, err
	}
	ips, err := p.retireLink(c)
	if errors.Is(err, errAttached) {
		ips, err = removeLink(c)
	}
	if err != nil {
		return nil, err
	}
	if conf.IPAM.Type == "" {
		return nil, nil
	}
	if _, err := p.delHostLocal(ctx, c); err != nil {
		return nil, err
	}
	if !conf.IPMasq {
		return nil, nil
	}
	b := &bridging{call: c, conf: conf}
	return nil, p.unsetMasquerade(ctx, c, b.masquerade(ips))
}
