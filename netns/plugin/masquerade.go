package plugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/containernetworking/plugins/pkg/utils"

	"github.com/berthd/berth/crashpoint"
	"github.com/berthd/berth/netns/nftables"
)

// The names that bridge and ptp give what masquerades for pods, in tables of their own.
const (
	masqTableName = "cni_plugins_masquerade"
	masqChain     = "masq_checks"
	postrouting   = "POSTROUTING"

	nftComments = 128 // bytes of a comment that nft takes
)

var masqTable = nftables.Table{Family: nftables.Inet, Name: masqTableName}

// multicast is never masqueraded: pods talk to each other by it.
var multicast = map[nftables.Family]netip.Prefix{
	nftables.IPv4: netip.MustParsePrefix("224.0.0.0/4"),
	nftables.IPv6: netip.MustParsePrefix("ff00::/8"),
}

// A masquerade is what has the packets of one pod's interface leave the host with the
// host's address.
type masquerade struct {
	network, container, ifName string

	backend *string      // "iptables" or "nftables"; nil: the node's
	ips     []*net.IPNet // of the pod, with their networks
}

// set sets m. The rules are made in one transaction for each family, in place of those that
// a plugin cut short has left.
func (p *Plugins) setMasquerade(ctx context.Context, c *call, m masquerade) error {
	backend := ""
	if m.backend != nil {
		backend = *m.backend
	} else {
		var err error
		if backend, err = p.tools.backend(ctx, c.lock); err != nil {
			return err
		}
	}
	switch backend {
	case "iptables":
		return m.setIPTables(ctx, &p.tools, c.lock)
	case "nftables":
		return m.setNFTables()
	}
	return fmt.Errorf("unknown ipmasq backend %q", backend)
}

// unsetMasquerade takes m away, by its names, whichever backend has made it. Unlike the
// programs it does not need the pod's interface to be there still: nobody knows its families then.
func (p *Plugins) unsetMasquerade(ctx context.Context, c *call, m masquerade) error {
	var errs []error
	for _, f := range []nftables.Family{nftables.IPv4, nftables.IPv6} {
		ipt, err := p.tools.find(ctx, f, c.lock)
		if errors.Is(err, exec.ErrNotFound) {
			continue // and no program has made any
		}
		if err == nil {
			err = ipt.remove(ctx, m.chain(), postrouting)
		}
		if err != nil && (ctx.Err() != nil || p.tools.usable(ctx, f, c.lock) && ipt.hasNAT(ctx)) {
			errs = append(errs, err)
		}
	}
	return oneLine(append(errs, m.unsetNFTables())...)
}

// families are those of m's addresses.
func (m masquerade) families() (all []nftables.Family) {
	for _, ip := range m.ips {
		if f := nftables.FamilyOf(prefixOf(ip).Addr()); !slices.Contains(all, f) {
			all = append(all, f)
		}
	}
	return all
}

// chain is the name of the pod's chain. It goes by no interface, which is history.
func (m masquerade) chain() string { return utils.FormatChainName(m.network, m.container) }

// prefixOf is an address with its network, as package netip has it.
func prefixOf(ip *net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(ip.IP)
	bits, _ := ip.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits)
}

// single is an address alone.
func single(p netip.Prefix) netip.Prefix { return netip.PrefixFrom(p.Addr(), p.Addr().BitLen()) }

// masked are the networks of addresses, each once.
func masked(ips []netip.Prefix) (all []netip.Prefix) {
	for _, ip := range ips {
		if n := ip.Masked(); !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	return all
}

func (m masquerade) setIPTables(ctx context.Context, t *tools, lock *os.File) error {
	for _, f := range m.families() {
		var ips []netip.Prefix
		for _, ip := range m.ips {
			if p := prefixOf(ip); nftables.FamilyOf(p.Addr()) == f {
				ips = append(ips, p)
			}
		}
		ipt, err := t.find(ctx, f, lock)
		if err != nil {
			return fmt.Errorf("failed to locate iptables: %w", err)
		}
		set := m.setByRestore
		if ipt.nft {
			set = m.setByNetlink
		}
		if err := set(ctx, ipt, ips); err != nil {
			return err
		}
	}
	return nil
}

// setByNetlink writes what iptables-nft would write.
func (m masquerade) setByNetlink(_ context.Context, t iptables, ips []netip.Prefix) error {
	crashpoint.At("masquerade", nat)
	table, chain, comment := t.table(), m.chain(), nftables.XtComment(utils.FormatComment(m.network, m.container))
	err := nftables.Change(func(conn *nftables.Conn, b *nftables.Batch) error {
		if err := unlink(conn, b, table, chain, []string{postrouting}); err != nil {
			return err
		}
		has, err := conn.HasChain(table, postrouting)
		if err != nil {
			return err
		}
		b.AddTable(table, "")
		b.AddChain(table, chain, "")
		if !has { // else its policy is not ours to set
			b.AddBase(table, postrouting, nftables.Postrouting)
		}
		for i, network := range masked(ips) {
			b.AddRule(table, chain, "", nftables.Destination(network), comment, nftables.Counter(), nftables.Accept())
			if i == 0 {
				b.AddRule(table, chain, "", nftables.NotDestination(multicast[t.family]), comment, nftables.Counter(), nftables.XtMasquerade(t.family))
			}
		}
		for _, ip := range ips {
			b.AddRule(table, postrouting, "", nftables.Source(single(ip)), comment, nftables.Counter(), nftables.Jump(chain))
		}
		return nil
	})
	crashpoint.At("masqueraded", nat)
	return err
}

// setByRestore has the node's iptables write it.
func (m masquerade) setByRestore(ctx context.Context, t iptables, ips []netip.Prefix) error {
	if err := t.remove(ctx, m.chain(), postrouting); err != nil {
		return err
	}
	chain := m.chain()
	comment := []string{"-m", "comment", "--comment", utils.FormatComment(m.network, m.container)}
	rule := func(on string, words ...string) string { return line("-A", on, append(words, comment...)...) }
	lines := []string{line("-N", chain)}
	for i, network := range masked(ips) {
		lines = append(lines, rule(chain, "-d", network.String(), "-j", "ACCEPT"))
		if i == 0 {
			lines = append(lines, rule(chain, "!", "-d", multicast[t.family].String(), "-j", "MASQUERADE"))
		}
	}
	for _, ip := range ips {
		lines = append(lines, rule(postrouting, "-s", ip.Addr().String(), "-j", chain))
	}
	return t.restore(ctx, lines)
}

// mark is what the comments of m's rules begin with in nf_tables.
func (m masquerade) mark() string {
	hash := func(s string) string { return utils.MustFormatHashWithPrefix(16, "", s) }
	return hash(m.network) + "-" + hash(m.ifName+":"+m.container)
}

// comment is m's mark, and whose it is.
func (m masquerade) comment() string {
	plain := strings.NewReplacer(`"`, "")
	text := fmt.Sprintf("%s, net: %s, if: %s, id: %s", m.mark(), plain.Replace(m.network), plain.Replace(m.ifName), plain.Replace(m.container))
	return text[:min(len(text), nftComments)]
}

func (m masquerade) setNFTables() error {
	crashpoint.At("masquerade", masqTableName)
	err := nftables.Change(func(conn *nftables.Conn, b *nftables.Batch) error {
		b.AddTable(masqTable, "Masquerading for plugins from github.com/containernetworking/plugins")
		b.AddChain(masqTable, masqChain, "Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet")
		const base = "postrouting"
		b.AddBase(masqTable, base, nftables.Postrouting)
		b.Flush(masqTable, base)
		for _, f := range []nftables.Family{nftables.IPv4, nftables.IPv6} {
			b.AddRule(masqTable, base, "", nftables.OfFamily(f), nftables.Destination(multicast[f]), nftables.Return())
		}
		b.AddRule(masqTable, base, "", nftables.Goto(masqChain))
		if err := m.deleteRules(conn, b); err != nil {
			return err
		}
		for _, ip := range m.ips {
			p := prefixOf(ip)
			b.AddRule(masqTable, masqChain, m.comment(), nftables.OfFamily(nftables.FamilyOf(p.Addr())),
				nftables.Source(single(p)), nftables.NotDestination(p), nftables.Masquerade())
		}
		return nil
	})
	crashpoint.At("masqueraded", masqTableName)
	return err
}

// unsetNFTables deletes m's rules. Where there is no nf_tables there are none.
func (m masquerade) unsetNFTables() error {
	crashpoint.At("unmasquerade", masqTableName)
	err := nftables.Change(func(conn *nftables.Conn, b *nftables.Batch) error {
		if conn.Supported() != nil {
			return nil
		}
		return m.deleteRules(conn, b)
	})
	if errors.Is(err, nftables.ErrUnsupported) {
		return nil
	}
	return err
}

func (m masquerade) deleteRules(conn *nftables.Conn, b *nftables.Batch) error {
	rules, err := conn.Rules(masqTable, masqChain)
	for _, r := range rules {
		if strings.HasPrefix(r.Comment, m.mark()) {
			b.DeleteRule(masqTable, masqChain, r.Handle)
		}
	}
	return err
}
