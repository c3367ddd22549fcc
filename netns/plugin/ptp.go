package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ip"
	"github.com/containernetworking/plugins/pkg/ipam"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/berthd/berth/crashpoint"
)

// ptpConf is ptp's configuration (cni.dev/plugins/current/main/ptp).
type ptpConf struct {
	types.PluginConf
	IPMasq        bool    `json:"ipMasq"`
	IPMasqBackend *string `json:"ipMasqBackend"`
	MTU           int     `json:"mtu"`
}

func readPtp(c *call) (conf ptpConf, err error) {
	if err := json.Unmarshal(c.conf, &conf); err != nil {
		return conf, fmt.Errorf("failed to load netconf: %w", err)
	}
	return conf, nil
}

func unsupportedByPtp(c *call) (string, error) {
	conf, err := readPtp(c)
	if err == nil && conf.IPAM.Type != "host-local" {
		return "ipam.type", nil
	}
	return "", err
}

func (c ptpConf) masquerade(to *call, ips []*net.IPNet) masquerade {
	return masquerade{network: c.Name, container: to.container, ifName: to.ifName, backend: c.IPMasqBackend, ips: ips}
}

// addPtp connects the pod to the host alone.
func (p *Plugins) addPtp(ctx context.Context, c *call) (types.Result, error) {
	conf, err := readPtp(c)
	if err != nil {
		return nil, err
	}
	var result *types100.Result
	err = p.withAddresses(ctx, c, func(given *types100.Result) error {
		result = given
		if err := ip.EnableForward(given.IPs); err != nil {
			return fmt.Errorf("Could not enable IP forwarding: %w", err)
		}
		pod, err := ns.GetNS(c.netns)
		if err != nil {
			return fmt.Errorf("failed to open netns %q: %w", c.netns, err)
		}
		defer pod.Close()
		if err := ended(ctx, "making the pod's interface"); err != nil {
			return err
		}
		if err := connectPtp(c, conf.MTU, pod, given); err != nil {
			return err
		}
		if err := addressHostEnd(given); err != nil || !conf.IPMasq {
			return err
		}
		if err := ended(ctx, "setting masquerading"); err != nil {
			return err
		}
		return p.setMasquerade(ctx, c, conf.masquerade(c, networks(given.IPs)))
	})
	if err != nil {
		return nil, err
	}
	if hasDNS(conf.DNS) {
		result.DNS = conf.DNS
	}
	return result, nil
}

// connectPtp makes the pod's interface, with its addresses and routes.
func connectPtp(c *call, mtu int, pod ns.NetNS, result *types100.Result) error {
	crashpoint.At("make link", "ptp")
	err := pod.Do(func(host ns.NetNS) error {
		outer, inner, err := ip.SetupVeth(c.ifName, mtu, "", host)
		if err != nil {
			return err
		}
		crashpoint.At("made link", "ptp")
		result.Interfaces = []*types100.Interface{
			{Name: outer.Name, Mac: outer.HardwareAddr.String()},
			{Name: inner.Name, Mac: inner.HardwareAddr.String(), Sandbox: c.netns},
		}
		for _, ipc := range result.IPs {
			ipc.Interface = types100.Int(1)
		}
		if err := ipam.ConfigureIface(c.ifName, result); err != nil {
			return err
		}
		link, err := netlinksafe.LinkByName(c.ifName)
		if err != nil {
			return fmt.Errorf("failed to look up %q: %w", c.ifName, err)
		}
		for _, ipc := range result.IPs {
			if err := routeByGateway(link.Attrs().Index, ipc); err != nil {
				return err
			}
		}
		return nil
	})
	crashpoint.At("configured link", "ptp")
	return err
}

// routeByGateway has the pod reach the others of its network by its gateway, which is the
// host: there is nobody else at its interface. The kernel's own route to the network goes.
func routeByGateway(link int, ipc *types100.IPConfig) error {
	network := &net.IPNet{IP: ipc.Address.IP.Mask(ipc.Address.Mask), Mask: ipc.Address.Mask}
	own := netlink.Route{LinkIndex: link, Dst: network, Scope: netlink.SCOPE_NOWHERE}
	if err := netlink.RouteDel(&own); err != nil {
		return fmt.Errorf("failed to delete route %v: %w", own, err)
	}
	for _, r := range []netlink.Route{
		{LinkIndex: link, Dst: alone(ipc.Gateway), Scope: netlink.SCOPE_LINK, Src: ipc.Address.IP},
		{LinkIndex: link, Dst: network, Scope: netlink.SCOPE_UNIVERSE, Gw: ipc.Gateway, Src: ipc.Address.IP},
	} {
		if err := netlink.RouteAdd(&r); err != nil {
			return fmt.Errorf("failed to add route %v: %w", r, err)
		}
	}
	return nil
}

// alone is an address as a network of its own.
func alone(a net.IP) *net.IPNet {
	if a.To4() != nil {
		return &net.IPNet{IP: a, Mask: net.CIDRMask(32, 32)}
	}
	return &net.IPNet{IP: a, Mask: net.CIDRMask(128, 128)}
}

// addressHostEnd makes the host's end the gateway, with routes to the pod's addresses.
func addressHostEnd(result *types100.Result) error {
	name := result.Interfaces[0].Name
	link, err := netlinksafe.LinkByName(name)
	if err != nil {
		return fmt.Errorf("failed to lookup %q: %w", name, err)
	}
	for _, ipc := range result.IPs {
		gw := alone(ipc.Gateway)
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: gw}); err != nil {
			return fmt.Errorf("failed to add IP addr (%v) to veth: %w", gw, err)
		}
		if err := ip.AddHostRoute(alone(ipc.Address.IP), nil, link); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("failed to add route on host: %w", err)
		}
	}
	return nil
}

// delPtp gives the addresses back, then takes the interface away, and stops the
// masquerading.
func (p *Plugins) delPtp(ctx context.Context, c *call) (types.Result, error) {
	conf, err := readPtp(c)
	if err != nil {
		return nil, err
	}
	if _, err := p.delHostLocal(ctx, c); err != nil {
		return nil, err
	}
	ips, err := removeLink(c)
	if err != nil || !conf.IPMasq {
		return nil, err
	}
	return nil, p.unsetMasquerade(ctx, c, conf.masquerade(c, ips))
}

// checkPtp compares the pod's interface with the result of ADD.
func (p *Plugins) checkPtp(ctx context.Context, c *call) (types.Result, error) {
	conf, err := readPtp(c)
	if err != nil {
		return nil, err
	}
	a, err := p.openCheck(ctx, c, &conf.PluginConf)
	if err != nil {
		return nil, err
	}
	defer a.pod.Close()
	return nil, a.pod.Do(func(ns.NetNS) error {
		if _, err := a.checkInner(); err != nil {
			return err
		}
		return a.checkAddresses()
	})
}
