package plugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ip"
	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/berthd/berth/crashpoint"
)

// removeLink takes the pod's interface away, if it is there, and returns the addresses
// that it had.
func removeLink(c *call) (ips []*net.IPNet, err error) {
	if c.netns == "" {
		return nil, nil
	}
	crashpoint.At("remove link", "veth")
	err = ns.WithNetNSPath(c.netns, func(ns.NetNS) error {
		var err error
		ips, err = ip.DelLinkByNameAddr(c.ifName)
		if errors.Is(err, ip.ErrLinkNotFound) {
			return nil
		}
		return err
	})
	crashpoint.At("removed link", "veth")
	return ips, unlessGone(err)
}

// withAddresses has host-local give addresses to use, and gives them back when use fails.
func (p *Plugins) withAddresses(ctx context.Context, c *call, use func(*types100.Result) error) error {
	given, err := p.addHostLocal(ctx, c)
	if err != nil {
		return err
	}
	err = p.useAddresses(c, given, use)
	if err != nil {
		// Also when ctx has ended: what is left would be somebody's at DEL alone.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseLimit)
		defer cancel()
		_, again := p.delHostLocal(ctx, c)
		err = oneLine(err, again)
	}
	return err
}

// releaseLimit is how long addresses of an ADD that has failed are tried to be given back.
const releaseLimit = 2 * time.Second

// useAddresses has use get what it would read from host-local's program, in the version of the
// configuration.
func (p *Plugins) useAddresses(c *call, given types.Result, use func(*types100.Result) error) error {
	data, err := c.encode(given)
	if err != nil {
		return err
	}
	read, err := c.decode(data)
	if err != nil {
		return err
	}
	result, err := types100.NewResultFromResult(read)
	if err != nil {
		return err
	}
	if len(result.IPs) == 0 {
		return errors.New("IPAM plugin returned missing IP config")
	}
	return use(result)
}

// networks are the addresses of a result, with their networks.
func networks(ips []*types100.IPConfig) (all []*net.IPNet) {
	for _, ip := range ips {
		all = append(all, &ip.Address)
	}
	return all
}

func hasDNS(d types.DNS) bool {
	return d.Nameservers != nil || d.Search != nil || d.Options != nil || d.Domain != ""
}

// oneLine joins errors in one line, nil when there are none.
func oneLine(errs ...error) (all error) {
	for _, err := range errs {
		switch {
		case err == nil:
		case all == nil:
			all = err
		default:
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return all
}
