package plugin

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"
)

// resolvConfLimit is how much is read of a resolv.conf, in bytes.
const resolvConfLimit = 1 << 20

// addHostLocal takes an address of each set of ranges.
func (p *Plugins) addHostLocal(ctx context.Context, c *call) (types.Result, error) {
	conf, _, err := allocator.LoadIPAMConfig(c.conf, c.args)
	if err != nil {
		return nil, err
	}
	result := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, Routes: conf.Routes}
	if conf.ResolvConf != "" {
		if result.DNS, err = readResolvConf(conf.ResolvConf); err != nil {
			return nil, err
		}
	}
	store, err := p.dirs.open(ctx, conf.DataDir, conf.Name)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	result.IPs, err = allocate(c, conf, store)
	if err != nil {
		return nil, err
	}
	return result, nil
}

// allocate takes the addresses, or none. Those that were asked for are to be used up.
func allocate(c *call, conf *allocator.IPAMConfig, store *reservation) (ips []*types100.IPConfig, err error) {
	defer func() {
		if err != nil && len(ips) > 0 {
			err = oneLine(err, store.ReleaseByID(c.container, c.ifName))
			ips = nil
		}
	}()
	wanted := slices.Clone(conf.IPArgs)
	for i := range conf.Ranges {
		set := &conf.Ranges[i]
		var ask net.IP
		if at := slices.IndexFunc(wanted, set.Contains); at >= 0 {
			ask = wanted[at]
			wanted = slices.DeleteFunc(wanted, ask.Equal)
		}
		ip, err := allocator.NewIPAllocator(set, store, i).Get(c.container, c.ifName, ask)
		if err != nil {
			return ips, fmt.Errorf("failed to allocate for range %d: %w", i, err)
		}
		ips = append(ips, ip)
	}
	if len(wanted) > 0 {
		return ips, fmt.Errorf("failed to allocate all requested IPs: %s", list(wanted))
	}
	return ips, nil
}

func list(ips []net.IP) string {
	all := make([]string, len(ips))
	for i, ip := range ips {
		all[i] = ip.String()
	}
	return strings.Join(all, " ")
}

// delHostLocal gives all addresses of the container's interface back.
func (p *Plugins) delHostLocal(ctx context.Context, c *call) (types.Result, error) {
	conf, _, err := allocator.LoadIPAMConfig(c.conf, c.args)
	if err != nil {
		return nil, err
	}
	store, err := p.dirs.open(ctx, conf.DataDir, conf.Name)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	return nil, store.ReleaseByID(c.container, c.ifName)
}

// checkHostLocal wants any address of the container's interface.
func (p *Plugins) checkHostLocal(ctx context.Context, c *call) (types.Result, error) {
	conf, _, err := allocator.LoadIPAMConfig(c.conf, c.args)
	if err != nil {
		return nil, err
	}
	store, err := p.dirs.open(ctx, conf.DataDir, conf.Name)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	names, err := store.held(c.container, c.ifName)
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("host-local: Failed to find address added by container %v", c.container)
	}
	return nil, err
}

// readResolvConf reads what a resolver's configuration says (resolv.conf(5)).
func readResolvConf(path string) (dns types.DNS, err error) {
	f, err := os.Open(path)
	if err != nil {
		return dns, err
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, resolvConfLimit))
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			dns.Nameservers = append(dns.Nameservers, words[1])
		case "domain":
			dns.Domain = words[1]
		case "search":
			dns.Search = append(dns.Search, words[1:]...)
		case "options":
			dns.Options = append(dns.Options, words[1:]...)
		}
	}
	return dns, lines.Err()
}
