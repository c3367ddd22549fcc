package plugin

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/containernetworking/plugins/pkg/ip"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
)

// An attached is a pod as ADD left it, for CHECK.
type attached struct {
	*call
	pod    ns.NetNS // to be closed
	result *types100.Result
	inner  *types100.Interface // the pod's end, by the result
}

// openCheck has host-local check, and reads the result of ADD.
func (p *Plugins) openCheck(ctx context.Context, c *call, conf *types.PluginConf) (*attached, error) {
	pod, err := ns.GetNS(c.netns)
	if err != nil {
		return nil, fmt.Errorf("failed to open netns %q: %w", c.netns, err)
	}
	a, err := p.readCheck(ctx, c, conf)
	if err != nil {
		pod.Close()
		return nil, err
	}
	a.pod = pod
	return a, nil
}

func (p *Plugins) readCheck(ctx context.Context, c *call, conf *types.PluginConf) (*attached, error) {
	if conf.IPAM.Type != "" {
		if _, err := p.checkHostLocal(ctx, c); err != nil {
			return nil, err
		}
	}
	result, err := prevResult(conf)
	if err != nil {
		return nil, err
	}
	a := &attached{call: c, result: result}
	for _, i := range result.Interfaces {
		if i.Name == c.ifName && i.Sandbox == c.netns {
			a.inner = i
		}
	}
	if a.inner == nil {
		return nil, fmt.Errorf("prevResult has no interface %s in the sandbox %s", c.ifName, c.netns)
	}
	return a, nil
}

// prevResult is what the plugins before this one gave, and what ADD gave for CHECK. Its absence is an error.
func prevResult(conf *types.PluginConf) (*types100.Result, error) {
	if conf.RawPrevResult == nil {
		return nil, errors.New("Required prevResult missing")
	}
	if err := version.ParsePrevResult(conf); err != nil {
		return nil, fmt.Errorf("could not parse prevResult: %w", err)
	}
	result, err := types100.NewResultFromResult(conf.PrevResult)
	if err != nil {
		return nil, fmt.Errorf("could not convert result to current version: %w", err)
	}
	return result, nil
}

// checkInner checks the pod's end, from within the pod.
func (a *attached) checkInner() (*netlink.Veth, error) {
	link, err := netlinksafe.LinkByName(a.ifName)
	if err != nil {
		return nil, fmt.Errorf("interface %s is not in the pod: %w", a.ifName, err)
	}
	veth, ok := link.(*netlink.Veth)
	if !ok {
		return nil, fmt.Errorf("interface %s is not a veth but a %s", a.ifName, link.Type())
	}
	if err := checkMAC(a.inner, link); err != nil {
		return nil, err
	}
	return veth, nil
}

func checkMAC(want *types100.Interface, link netlink.Link) error {
	if mac := link.Attrs().HardwareAddr.String(); want.Mac != "" && want.Mac != mac {
		return fmt.Errorf("interface %s has the MAC address %s, not %s", want.Name, mac, want.Mac)
	}
	return nil
}

// checkAddresses checks addresses and routes, from within the pod.
func (a *attached) checkAddresses() error {
	if err := ip.ValidateExpectedInterfaceIPs(a.ifName, a.result.IPs); err != nil {
		return err
	}
	return ip.ValidateExpectedRoute(a.result.Routes)
}

// checkBridge compares the bridge, its port and the pod's interface with the result of ADD.
func (p *Plugins) checkBridge(ctx context.Context, c *call) (types.Result, error) {
	conf, _, err := readBridge(c)
	if err != nil {
		return nil, err
	}
	a, err := p.openCheck(ctx, c, &conf.PluginConf)
	if err != nil {
		return nil, err
	}
	defer a.pod.Close()
	br, err := a.checkBridgeLink(conf)
	if err != nil {
		return nil, err
	}
	var inner *netlink.Veth
	if err := a.pod.Do(func(ns.NetNS) error {
		inner, err = a.checkInner()
		return err
	}); err != nil {
		return nil, err
	}
	if err := a.checkPort(conf, br, inner); err != nil {
		return nil, err
	}
	return nil, a.pod.Do(func(ns.NetNS) error { return a.checkAddresses() })
}

func (a *attached) checkBridgeLink(conf bridgeConf) (*netlink.Bridge, error) {
	var want *types100.Interface
	for _, i := range a.result.Interfaces {
		if i.Name == conf.Bridge && i.Sandbox == "" {
			want = i
		}
	}
	if want == nil {
		return nil, fmt.Errorf("prevResult has no bridge %s", conf.Bridge)
	}
	link, err := netlinksafe.LinkByName(conf.Bridge)
	if err != nil {
		return nil, fmt.Errorf("bridge %s: %w", conf.Bridge, err)
	}
	br, ok := link.(*netlink.Bridge)
	if !ok {
		return nil, fmt.Errorf("interface %s does not have link type of bridge", conf.Bridge)
	}
	if promisc := br.Promisc != 0; promisc != conf.PromiscMode {
		return nil, fmt.Errorf("bridge %s: its promiscuous mode is %t, not %t", conf.Bridge, promisc, conf.PromiscMode)
	}
	return br, checkMAC(want, br)
}

// checkPort looks for the interface of the result that is the pod's other end and a port of the bridge.
func (a *attached) checkPort(conf bridgeConf, br *netlink.Bridge, inner *netlink.Veth) error {
	for _, i := range a.result.Interfaces {
		if i.Sandbox != "" || i.Name == conf.Bridge || i.Name == a.ifName {
			continue
		}
		link, err := netlinksafe.LinkByName(i.Name)
		if err != nil {
			return fmt.Errorf("interface %s: %w", i.Name, err)
		}
		port, ok := link.(*netlink.Veth)
		if !ok || port.Index != inner.ParentIndex || port.ParentIndex != inner.Index || port.MasterIndex != br.Index {
			continue
		}
		return checkMAC(i, port)
	}
	return fmt.Errorf("no port of the bridge %s is the other end of the pod's %s", conf.Bridge, a.ifName)
}
