package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
)

// loopbackName is the interface that loopback is about, whatever it is told.
const loopbackName = "lo"

// addLoopback sets the pod's loopback interface up.
func addLoopback(_ context.Context, c *call) (types.Result, error) {
	var conf types.PluginConf
	if err := json.Unmarshal(c.conf, &conf); err != nil {
		return nil, fmt.Errorf("failed to parse network config: %w", err)
	}
	if conf.RawPrevResult != nil {
		if err := version.ParsePrevResult(&conf); err != nil {
			return nil, fmt.Errorf("failed to parse prevResult: %w", err)
		}
	}
	result := &types100.Result{
		CNIVersion: c.version, // as it is: nothing is converted
		Interfaces: []*types100.Interface{{Name: loopbackName, Mac: "00:00:00:00:00:00", Sandbox: c.netns}},
	}
	err := ns.WithNetNSPath(c.netns, func(ns.NetNS) error {
		link, err := netlinksafe.LinkByName(loopbackName)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		for _, family := range []int{familyIPv4, familyIPv6} {
			addrs, err := netlinksafe.AddrList(link, family)
			if err != nil {
				return err
			}
			for i, a := range addrs {
				if !a.IP.IsLoopback() {
					return fmt.Errorf("loopback interface found with non-loopback address %q", a.IP)
				}
				if i == 0 {
					result.IPs = append(result.IPs, &types100.IPConfig{Interface: types100.Int(0), Address: *a.IPNet})
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if conf.PrevResult != nil {
		return conf.PrevResult, nil
	}
	return result, nil
}

// delLoopback sets it down.
func delLoopback(_ context.Context, c *call) (types.Result, error) {
	if c.netns == "" {
		return nil, nil
	}
	return nil, unlessGone(ns.WithNetNSPath(c.netns, func(ns.NetNS) error {
		link, err := netlinksafe.LinkByName(loopbackName)
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(link)
	}))
}

func checkLoopback(_ context.Context, c *call) (types.Result, error) {
	return nil, ns.WithNetNSPath(c.netns, func(ns.NetNS) error {
		link, err := netlinksafe.LinkByName(loopbackName)
		if err != nil {
			return err
		}
		if link.Attrs().Flags&net.FlagUp == 0 {
			return errors.New("loopback interface is down")
		}
		return nil
	})
}

// unlessGone is nil for the error that a network namespace is not there any more.
func unlessGone(err error) error {
	if _, gone := errors.AsType[ns.NSPathNotExistErr](err); gone {
		return nil
	}
	return err
}
