package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/utils"
	"github.com/containernetworking/plugins/pkg/utils/sysctl"
	"github.com/vishvananda/netlink"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/crashpoint"
	"github.com/berthd/berth/netns/nftables"
)

// portmapConf is portmap's configuration (cni.dev/plugins/current/meta/portmap).
type portmapConf struct {
	types.PluginConf
	Backend              *string  `json:"backend"`
	SNAT                 *bool    `json:"snat"`
	ConditionsV4         []string `json:"conditionsV4"`
	ConditionsV6         []string `json:"conditionsV6"`
	MasqAll              bool     `json:"masqAll"`
	MarkMasqBit          *int     `json:"markMasqBit"`
	ExternalSetMarkChain *string  `json:"externalSetMarkChain"`
	RuntimeConfig        struct {
		PortMaps []portMapping `json:"portMappings"`
	} `json:"runtimeConfig"`
}

// A portMapping is one of the capability portMappings.
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// defaultMarkBit is the bit of packets' marks that has them masqueraded.
const defaultMarkBit = 13

const (
	onIPTables = "iptables"
	onNFTables = "nftables"
)

// readPortmap reads and checks the configuration, but for what comes from the node.
func readPortmap(c *call) (conf portmapConf, err error) {
	if err := json.Unmarshal(c.conf, &conf); err != nil {
		return conf, fmt.Errorf("failed to parse config: failed to parse network configuration: %w", err)
	}
	if conf.MarkMasqBit != nil && conf.ExternalSetMarkChain != nil {
		return conf, errors.New("Cannot specify externalSetMarkChain and markMasqBit")
	}
	if bit := conf.markBit(); bit < 0 || bit > 31 {
		return conf, errors.New("MasqMarkBit must be between 0 and 31")
	}
	for _, m := range conf.RuntimeConfig.PortMaps {
		switch {
		case m.ContainerPort <= 0 || m.ContainerPort > 65535:
			return conf, fmt.Errorf("Invalid container port number: %d", m.ContainerPort)
		case m.HostPort <= 0 || m.HostPort > 65535:
			return conf, fmt.Errorf("Invalid host port number: %d", m.HostPort)
		case protocols[m.Protocol] == 0:
			return conf, fmt.Errorf("Invalid protocol: %q", m.Protocol)
		case m.HostIP != "" && net.ParseIP(m.HostIP) == nil:
			return conf, fmt.Errorf("Invalid host IP: %q", m.HostIP)
		}
	}
	return conf, nil
}

func (c portmapConf) markBit() int {
	if c.MarkMasqBit == nil {
		return defaultMarkBit
	}
	return *c.MarkMasqBit
}

func (c portmapConf) snat() bool { return c.SNAT == nil || *c.SNAT }

// unsupportedByPortmap: conditions of nftables are text for nft to understand, those of iptables
// have to be words that iptables-restore reads as the program does, which also knows more protocols
// than are usual, and takes an address that is none for one of IPv6.
func unsupportedByPortmap(c *call) (string, error) {
	var conf portmapConf
	if err := json.Unmarshal(c.conf, &conf); err != nil {
		return "", err
	}
	switch {
	case !answerable(conf.ConditionsV4):
		return "conditionsV4", nil
	case !answerable(conf.ConditionsV6):
		return "conditionsV6", nil
	case conf.ExternalSetMarkChain != nil && !chainName.MatchString(*conf.ExternalSetMarkChain):
		return "externalSetMarkChain", nil
	}
	for _, m := range conf.RuntimeConfig.PortMaps {
		if protocols[m.Protocol] == 0 {
			return "runtimeConfig.portMappings.protocol", nil
		}
		if a, err := netip.ParseAddr(m.HostIP); m.HostIP != "" && (err != nil || a.Is4In6() || a.Zone() != "") {
			return "runtimeConfig.portMappings.hostIP", nil
		}
	}
	return "", nil
}

// chainName is a name of a chain, and conditionWord a word of a condition, that need no quotes;
// matches are options of iptables that are matches for certain: it takes shortened ones too.
var (
	chainName     = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:-]*$`)
	conditionWord = regexp.MustCompile(`^[A-Za-z0-9_.:/,+][A-Za-z0-9_.:/,+-]*$`)
	matches       = []string{
		"!", "-s", "-d", "-i", "-o", "-m", "--source", "--destination", "--in-interface", "--out-interface", "--match",
		"--src-type", "--dst-type", "--src-range", "--dst-range", "--match-set", "--ctstate", "--state", "--mark", "--mac-source",
	}
)

// answerable tells whether conditions are none, or iptables' and plain.
func answerable(conditions []string) bool {
	for _, w := range conditions {
		if !conditionWord.MatchString(w) && !slices.Contains(matches, w) {
			return false
		}
	}
	return conditionsOf(conditions) != onNFTables
}

// conditionsOf is the backend that conditions are written for; "" where there are none.
func conditionsOf(conditions []string) string {
	switch {
	case len(conditions) == 0 || conditions[0] == "":
		return ""
	case conditions[0][0] == '-' || conditions[0][0] == '!':
		return onIPTables
	}
	return onNFTables
}

// backend is the one of the configuration, or the node's.
func (p *Plugins) portmapBackend(ctx context.Context, c *call, conf portmapConf) (string, error) {
	backend := ""
	if conf.Backend != nil {
		backend = *conf.Backend
	} else {
		var err error
		if backend, err = p.tools.backend(ctx, c.lock); err != nil {
			return "", err
		}
	}
	switch {
	case backend != onIPTables && backend != onNFTables:
		return "", fmt.Errorf("unrecognized backend %q", backend)
	case backend == onNFTables && conf.ExternalSetMarkChain != nil:
		return "", fmt.Errorf("%s backend was requested but configuration contains iptables-specific options [externalSetMarkChain]", backend)
	case backend == onNFTables && (conditionsOf(conf.ConditionsV4) == onIPTables || conditionsOf(conf.ConditionsV6) == onIPTables):
		return "", fmt.Errorf("%s backend was requested but configuration contains iptables-specific options [conditions]", backend)
	}
	return backend, nil
}

// A portForward is what sends ports of the host to a pod, by one of its addresses.
type portForward struct {
	portmapConf
	container string
	address   netip.Prefix // of the pod, with its network
}

func (f portForward) family() nftables.Family { return nftables.FamilyOf(f.address.Addr()) }

// A forwarded is one mapping for the family of the address.
type forwarded struct {
	protocol       string
	hostPort, port uint16
	hostIP         string // as it was given; "" for all of the host
}

// mappings are those that are for f's family.
func (f portForward) mappings() (all []forwarded) {
	for _, m := range f.RuntimeConfig.PortMaps {
		fw := forwarded{m.Protocol, uint16(m.HostPort), uint16(m.ContainerPort), ""}
		if m.HostIP != "" {
			ip := net.ParseIP(m.HostIP)
			if (ip.To4() != nil) != f.address.Addr().Is4() {
				continue
			}
			if !ip.IsUnspecified() {
				fw.hostIP = m.HostIP
			}
		}
		all = append(all, fw)
	}
	return all
}

// addPortmap sends the host's ports to the pod, by the addresses that the plugins before gave it.
func (p *Plugins) addPortmap(ctx context.Context, c *call) (types.Result, error) {
	conf, err := readPortmap(c)
	if err != nil {
		return nil, err
	}
	if conf.RawPrevResult == nil {
		return nil, errors.New("must be called as chained plugin")
	}
	result, err := prevResult(&conf.PluginConf)
	if err != nil {
		return nil, err
	}
	if len(conf.RuntimeConfig.PortMaps) == 0 {
		return conf.PrevResult, nil
	}
	backend, err := p.portmapBackend(ctx, c, conf)
	if err != nil {
		return nil, err
	}
	for _, address := range podAddresses(result, c.ifName) {
		f := portForward{conf, c.container, address}
		if err := ended(ctx, "mapping ports"); err != nil {
			return nil, err
		}
		if backend == onNFTables {
			err = f.setNFTables()
		} else {
			err = f.setIPTables(ctx, &p.tools, c.lock)
		}
		if err != nil {
			return nil, err
		}
		if err := f.complete(ctx); err != nil {
			return nil, err
		}
	}
	return conf.PrevResult, nil
}

// podAddresses are the first IPv4 and the first IPv6 address of the pod's interface.
func podAddresses(result *types100.Result, ifName string) (all []netip.Prefix) {
	var v4, v6 []netip.Prefix
	for _, ipc := range result.IPs {
		if i := ipc.Interface; i != nil && *i >= 0 && *i < len(result.Interfaces) &&
			(result.Interfaces[*i].Name != ifName || result.Interfaces[*i].Sandbox == "") {
			continue
		}
		if a := prefixOf(&ipc.Address); a.Addr().Is4() {
			v4 = append(v4, a)
		} else if a.Addr().Is6() {
			v6 = append(v6, a)
		}
	}
	return append(v4[:min(len(v4), 1)], v6[:min(len(v6), 1)]...)
}

// complete does what is to be done beside the rules: connections over UDP that were there before
// go another way from now on, and the host reaches the pod by its loopback addresses too.
func (f portForward) complete(ctx context.Context) error {
	family := netlink.InetFamily(familyIPv6)
	if f.address.Addr().Is4() {
		family = familyIPv4
	}
	seen := map[int]bool{}
	for _, m := range f.RuntimeConfig.PortMaps {
		if m.Protocol != "udp" || seen[m.HostPort] {
			continue
		}
		seen[m.HostPort] = true
		if err := ended(ctx, "ending old connections"); err != nil { // each reads all connections
			return err
		}
		if err := utils.DeleteConntrackEntriesForDstPort(uint16(m.HostPort), protoUDP, family); err != nil {
			klog.FromContext(ctx).V(2).Info("Old connections to a mapped port may go on", "port", m.HostPort, "err", err)
			break
		}
	}
	if !f.snat() || !f.address.Addr().Is4() {
		return nil
	}
	name := routedBy(f.address.Addr())
	if name == "" {
		return nil
	}
	if _, err := sysctl.Sysctl("net/ipv4/conf/"+name+"/route_localnet", "1"); err != nil {
		return fmt.Errorf("unable to enable route_localnet: %w", err)
	}
	return nil
}

// routedBy is the interface by which the host reaches an address, or "".
func routedBy(a netip.Addr) string {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil {
		return ""
	}
	for _, r := range routes {
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			return link.Attrs().Name
		}
	}
	return ""
}

// delPortmap takes the pod's rules away, of both families and whether they are there or not.
func (p *Plugins) delPortmap(ctx context.Context, c *call) (types.Result, error) {
	conf, err := readPortmap(c)
	if err != nil || len(conf.RuntimeConfig.PortMaps) == 0 {
		return nil, err
	}
	backend, err := p.portmapBackend(ctx, c, conf)
	if err != nil {
		return nil, err
	}
	crashpoint.At("unmap ports", backend)
	f := portForward{portmapConf: conf, container: c.container}
	if backend == onNFTables {
		return nil, f.unsetNFTables()
	}
	return nil, f.unsetIPTables(ctx, &p.tools, c.lock)
}

// checkPortmap wants the pod's rules to be there.
func (p *Plugins) checkPortmap(ctx context.Context, c *call) (types.Result, error) {
	conf, err := readPortmap(c)
	if err != nil {
		return nil, err
	}
	result, err := prevResult(&conf.PluginConf)
	if err != nil || len(conf.RuntimeConfig.PortMaps) == 0 {
		return nil, err
	}
	backend, err := p.portmapBackend(ctx, c, conf)
	if err != nil {
		return nil, err
	}
	for _, address := range podAddresses(result, c.ifName) {
		f := portForward{conf, c.container, address}
		if backend == onNFTables {
			err = f.checkNFTables()
		} else {
			err = f.checkIPTables(ctx, &p.tools, c.lock)
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}
