package plugin

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/berthd/berth/crashpoint"
	"github.com/berthd/berth/netns/nftables"
)

// The names that portmap gives its table and chains of nf_tables.
const (
	portsTable    = "cni_hostport"
	portsChain    = "hostports"
	portsAll      = "hostports_all"
	portsOld      = "hostip_hostports" // empty; older versions have rules in it
	portsMasqHook = "masquerading"
)

func portsTableOf(f nftables.Family) nftables.Table {
	return nftables.Table{Family: f, Name: portsTable}
}

// setNFTables maps the ports in one transaction.
func (f portForward) setNFTables() error {
	t := portsTableOf(f.family())
	crashpoint.At("map ports", portsTable)
	err := nftables.Change(func(_ *nftables.Conn, b *nftables.Batch) error {
		b.AddTable(t, "CNI portmap plugin")
		b.AddChain(t, portsChain, "")
		b.AddChain(t, portsOld, "")
		b.AddChain(t, portsAll, "")
		b.Flush(t, portsAll)
		b.AddRule(t, portsAll, "", nftables.Jump(portsOld))
		b.AddRule(t, portsAll, "", nftables.Jump(portsChain))
		base := func(name string, h nftables.Hook) {
			b.AddBase(t, name, h)
			b.Flush(t, name)
			b.AddRule(t, name, "", nftables.Local(), nftables.Jump(portsAll))
		}
		base("prerouting", nftables.Prerouting)
		base("output", nftables.Output)
		if f.snat() {
			b.AddBase(t, portsMasqHook, nftables.Postrouting)
		}
		f.addRules(b, t)
		return nil
	})
	crashpoint.At("mapped ports", portsTable)
	if err != nil {
		return fmt.Errorf("unable to set up nftables rules for port mappings: %w", err)
	}
	return nil
}

// addRules adds the pod's own rules.
func (f portForward) addRules(b *nftables.Batch, t nftables.Table) {
	pod := single(f.address)
	for _, m := range f.mappings() {
		var to []nftables.Expr
		if m.hostIP != "" {
			if a, err := netip.ParseAddr(m.hostIP); err == nil {
				to = nftables.Destination(single(netip.PrefixFrom(a.Unmap(), 0)))
			}
		}
		b.AddRule(t, portsChain, f.container, to, nftables.Proto(protocols[m.protocol], m.hostPort),
			nftables.DNAT(netip.AddrPortFrom(pod.Addr(), m.port)))
	}
	if !f.snat() {
		return
	}
	b.AddRule(t, portsMasqHook, f.container, nftables.Source(pod), nftables.Destination(pod), nftables.Masquerade())
	if pod.Addr().Is4() {
		loopback := single(netip.MustParsePrefix("127.0.0.1/32"))
		b.AddRule(t, portsMasqHook, f.container, nftables.Source(loopback), nftables.Destination(pod), nftables.Masquerade())
	}
}

// unsetNFTables takes the pod's rules away, of both families. Where there is no nf_tables there
// are none.
func (f portForward) unsetNFTables() error {
	unset := func(t nftables.Table) error {
		err := nftables.Change(func(conn *nftables.Conn, b *nftables.Batch) error {
			if conn.Supported() != nil {
				return nil
			}
			return f.deleteRules(conn, b, t)
		})
		if err != nil && !errors.Is(err, nftables.ErrUnsupported) {
			return fmt.Errorf("error deleting nftables rules: %w", err)
		}
		return nil
	}
	return oneLine(unset(portsTableOf(nftables.IPv4)), unset(portsTableOf(nftables.IPv6)))
}

func (f portForward) deleteRules(conn *nftables.Conn, b *nftables.Batch, t nftables.Table) error {
	for _, chain := range []string{portsChain, portsOld, portsMasqHook} {
		rules, err := conn.Rules(t, chain)
		if err != nil {
			return err
		}
		for _, r := range rules {
			if r.Comment == f.container {
				b.DeleteRule(t, chain, r.Handle)
			}
		}
	}
	return nil
}

// checkNFTables counts the pod's rules.
func (f portForward) checkNFTables() error {
	conn, err := nftables.Open()
	if err != nil {
		return err
	}
	defer conn.Close()
	want := map[string]int{portsChain: len(f.mappings())}
	if f.snat() {
		want[portsMasqHook] = 1
		if f.address.Addr().Is4() {
			want[portsMasqHook] = 2
		}
	}
	for chain, n := range want {
		rules, err := conn.Rules(portsTableOf(f.family()), chain)
		if err != nil {
			return err
		}
		for _, r := range rules {
			if r.Comment == f.container {
				n--
			}
		}
		if n > 0 {
			return fmt.Errorf("missing hostport rules in %q chain", chain)
		}
	}
	return nil
}
