package plugin

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/plugins/pkg/utils"

	"github.com/berthd/berth/netns/nftables"
)

// The names that portmap gives its chains in the table nat. The first three are all pods'.
const (
	hostPorts = "CNI-HOSTPORT-DNAT"
	setMark   = "CNI-HOSTPORT-SETMARK"
	markMasq  = "CNI-HOSTPORT-MASQ"

	podPrefix    = "DN-"
	oldHostPorts = "CNI-HOSTPORT-SNAT" // versions before 0.7 had it, with
	oldPrefix    = "SN-"               // such chains of pods
)

// Limits of iptables' extensions: ports of one multiport, bytes of one comment.
const (
	portsAtOnce      = 15
	iptablesComments = 255
)

func (f portForward) chain(prefix string) string {
	return utils.MustFormatChainNameWithPrefix(f.Name, f.container, prefix)
}

// sharedChains are those of all pods: one that sends packets to the host's ports through the
// pods' chains, and, unless somebody else marks packets, those that mark and masquerade
// what a pod sends to itself by the host, and what the host sends it from its loopback address.
func (f portForward) sharedChains() (all []sharedChain) {
	if f.snat() && f.ExternalSetMarkChain == nil {
		mark := fmt.Sprintf("%#x/%#[1]x", uint32(1)<<f.markBit())
		all = append(all,
			sharedChain{name: setMark, rules: [][]string{{"-m", "comment", "--comment", "CNI portfwd masquerade mark", "-j", "MARK", "--set-xmark", mark}}},
			sharedChain{
				name: markMasq, rules: [][]string{{"-m", "mark", "--mark", mark, "-j", "MASQUERADE"}},
				// At first: what masquerades pods would end the way of marked packets.
				from: []string{postrouting}, atFirst: true, calls: []string{"-m", "comment", "--comment", "CNI portfwd requiring masquerade"},
			})
	}
	return append(all, sharedChain{name: hostPorts, from: []string{"PREROUTING", "OUTPUT"}, calls: []string{"-m", "addrtype", "--dst-type", "LOCAL"}})
}

// calls are the rules that send packets to the pod's chain.
func (f portForward) calls() (all [][]string) {
	comment := fmt.Sprintf("dnat name: %q id: %q", f.Name, f.container)
	if len(comment) > iptablesComments {
		comment = comment[:iptablesComments-2] + "..."
	}
	conditions := f.ConditionsV6
	if f.address.Addr().Is4() {
		conditions = f.ConditionsV4
	}
	ports := map[string][]string{}
	var protos []string
	for _, m := range f.RuntimeConfig.PortMaps {
		if !slices.Contains(protos, m.Protocol) {
			protos = append(protos, m.Protocol)
		}
		ports[m.Protocol] = append(ports[m.Protocol], strconv.Itoa(m.HostPort))
	}
	slices.Sort(protos)
	for _, proto := range protos {
		for some := range slices.Chunk(ports[proto], portsAtOnce) {
			rule := []string{"-m", "comment", "--comment", comment, "-m", "multiport", "-p", proto, "--destination-ports", strings.Join(some, ",")}
			all = append(all, append(append(rule, conditions...), "-j", f.chain(podPrefix)))
		}
	}
	return all
}

// rules are those of the pod's chain.
func (f portForward) rules() (all [][]string) {
	add := func(rule ...string) {
		if !slices.ContainsFunc(all, func(r []string) bool { return slices.Equal(r, rule) }) {
			all = append(all, rule)
		}
	}
	mark := setMark
	if f.ExternalSetMarkChain != nil {
		mark = *f.ExternalSetMarkChain
	}
	from := f.address.String()
	is4 := f.address.Addr().Is4()
	if f.MasqAll {
		from = netip.PrefixFrom(f.address.Addr(), 0).Masked().String()
	}
	for _, m := range f.mappings() {
		base := []string{"-p", m.protocol, "--dport", strconv.Itoa(int(m.hostPort))}
		if m.hostIP != "" {
			base = append(base, "-d", m.hostIP)
		}
		if f.snat() {
			add(slices.Concat(base, []string{"-s", from, "-j", mark})...)
			if is4 && !f.MasqAll {
				add(slices.Concat(base, []string{"-s", "127.0.0.1", "-j", mark})...)
			}
		}
		to := netip.AddrPortFrom(f.address.Addr(), m.port).String()
		add(slices.Concat(base, []string{"-j", "DNAT", "--to-destination", to})...)
	}
	return all
}

func (f portForward) setIPTables(ctx context.Context, t *tools, lock *os.File) error {
	ipt, err := t.find(ctx, f.family(), lock)
	if err != nil {
		return fmt.Errorf("failed to open iptables: %w", err)
	}
	if err := ipt.ensure(ctx, f.sharedChains()); err != nil {
		return fmt.Errorf("unable to set up the chains of all pods: %w", err)
	}
	chain := f.chain(podPrefix)
	if err := ipt.remove(ctx, chain, hostPorts); err != nil {
		return fmt.Errorf("unable to remove chain %s: %w", chain, err)
	}
	lines := []string{line("-N", chain)}
	for _, rule := range f.rules() {
		lines = append(lines, line("-A", chain, rule...))
	}
	for _, rule := range f.calls() {
		lines = append(lines, line("-A", hostPorts, rule...))
	}
	if err := ipt.restore(ctx, lines); err != nil {
		return fmt.Errorf("unable to set up DNAT: %w", err)
	}
	return nil
}

// unsetIPTables takes the rules away. The pod's families are not known any more; one that
// the node has no iptables for had none.
func (f portForward) unsetIPTables(ctx context.Context, t *tools, lock *os.File) error {
	var errs, absent []error
	for _, family := range []nftables.Family{nftables.IPv4, nftables.IPv6} {
		ipt, err := t.find(ctx, family, lock)
		if err == nil {
			if _, err = ipt.hasChain(ctx, "OUTPUT"); err == nil {
				errs = append(errs, ipt.remove(ctx, f.chain(podPrefix), hostPorts), ipt.remove(ctx, f.chain(oldPrefix), oldHostPorts))
				continue
			}
		}
		if ctx.Err() != nil {
			return err
		}
		absent = append(absent, err)
	}
	if len(absent) == 2 {
		return fmt.Errorf("neither iptables nor ip6tables is usable: %w", oneLine(absent...))
	}
	return oneLine(errs...)
}

func (f portForward) checkIPTables(ctx context.Context, t *tools, lock *os.File) error {
	ipt, err := t.find(ctx, f.family(), lock)
	if err != nil {
		return err
	}
	chain := f.chain(podPrefix)
	if has, err := ipt.hasChain(ctx, chain); err != nil {
		return err
	} else if !has {
		return fmt.Errorf("chain %s not found in iptables table %s", chain, nat)
	}
	check := func(chain string, rules [][]string) error {
		for _, rule := range rules {
			has, err := ipt.exists(ctx, slices.Concat([]string{"-t", nat, "-C", chain}, rule)...)
			if err != nil && !errors.Is(err, exec.ErrNotFound) {
				return err
			}
			if !has {
				return fmt.Errorf("rule %s in chain %s not found in table %s", rule, chain, nat)
			}
		}
		return nil
	}
	return oneLine(check(chain, f.rules()), check(hostPorts, f.calls()))
}
