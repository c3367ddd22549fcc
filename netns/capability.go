package netns

import (
	"fmt"
	"math/big"
	"net/netip"
	"strings"
)

// Annotations of a pod that its network is made from.
const (
	// IngressAnnotation and EgressAnnotation limit the pod's traffic, in bits per
	// second, as a Kubernetes quantity such as "10M" (Kubernetes: network
	// plugins, traffic shaping).
	IngressAnnotation = "kubernetes.io/ingress-bandwidth"
	EgressAnnotation  = "kubernetes.io/egress-bandwidth"

	// IPsAnnotation asks for addresses: a list with commas, each an IP or
	// IP/prefix. They reach only plugins that declare the capability "ips"; the
	// address management decides whether the pod gets them.
	IPsAnnotation = "berth.dev/ips"
)

// A PortMapping makes a pod's port reachable on the host.
type PortMapping struct {
	HostPort      int32  // 0: no mapping
	ContainerPort int32  // 1 to 65535
	Protocol      string // tcp, udp or sctp in any case; "" is tcp
	HostIP        string // "" is every address of the host
}

// Bandwidth limits a pod's traffic, in bits per second; 0 is no limit.
type Bandwidth struct {
	Ingress, Egress uint64
}

// DNS is what the pod's resolver is told. Plugins get it as a capability.
type DNS struct {
	Servers, Searches, Options []string
}

// The arguments of capabilities, as the CNI conventions write them
// (CONVENTIONS.md, "Dynamic Plugin specific fields").
type (
	portMappingArg struct {
		HostPort      int32  `json:"hostPort"`
		ContainerPort int32  `json:"containerPort"`
		Protocol      string `json:"protocol"`
		HostIP        string `json:"hostIP,omitempty"`
	}
	bandwidthArg struct {
		IngressRate  uint64 `json:"ingressRate,omitempty"`
		IngressBurst uint64 `json:"ingressBurst,omitempty"`
		EgressRate   uint64 `json:"egressRate,omitempty"`
		EgressBurst  uint64 `json:"egressBurst,omitempty"`
	}
	dnsArg struct {
		Servers  []string `json:"servers,omitempty"`
		Searches []string `json:"searches,omitempty"`
		Options  []string `json:"options,omitempty"`
	}
)

// capabilities are a's arguments for plugins that declare them; libcni passes
// each plugin no others. What cannot be used is left out, and said in the error.
func (a Attachment) capabilities() (map[string]any, error) {
	caps := map[string]any{}
	var errs []error

	ports, err := portArgs(a.PortMappings)
	errs = append(errs, err)
	if len(ports) > 0 {
		caps["portMappings"] = ports
	}
	limits, err := a.limits()
	errs = append(errs, err)
	if limits != (Bandwidth{}) {
		caps["bandwidth"] = limits.arg()
	}
	ips, err := a.wantedIPs()
	errs = append(errs, err)
	if len(ips) > 0 {
		caps["ips"] = ips
	}
	if d := a.DNS; len(d.Servers)+len(d.Searches)+len(d.Options) > 0 {
		caps["dns"] = dnsArg(d)
	}
	if len(a.Annotations) > 0 {
		caps["io.kubernetes.cri.pod-annotations"] = a.Annotations
	}
	if a.CgroupPath != "" {
		caps["cgroupPath"] = a.CgroupPath
	}
	return caps, oneLine(errs)
}

func portArgs(mappings []PortMapping) ([]portMappingArg, error) {
	var args []portMappingArg
	var errs []error
	for _, m := range mappings {
		if m.HostPort == 0 {
			continue
		}
		arg := portMappingArg{m.HostPort, m.ContainerPort, strings.ToLower(m.Protocol), m.HostIP}
		if arg.Protocol == "" {
			arg.Protocol = "tcp"
		}
		bad := func(why string) {
			errs = append(errs, fmt.Errorf("port mapping %d to %d/%s: %s: %w", m.HostPort, m.ContainerPort, arg.Protocol, why, ErrInvalid))
		}
		if m.HostPort < 0 || m.HostPort > 65535 || m.ContainerPort < 1 || m.ContainerPort > 65535 {
			bad("a port is out of range")
			continue
		}
		if arg.Protocol != "tcp" && arg.Protocol != "udp" && arg.Protocol != "sctp" {
			bad("unknown protocol")
			continue
		}
		if a, err := netip.ParseAddr(m.HostIP); m.HostIP != "" {
			if err != nil || a.Zone() != "" {
				bad(fmt.Sprintf("host IP: %.100q is no address, or has a zone", m.HostIP))
				continue
			}
			arg.HostIP = a.Unmap().String()
		}
		args = append(args, arg)
	}
	return args, oneLine(errs)
}

// limits is a's bandwidth: the field, or where that says nothing the pod's
// annotations.
func (a Attachment) limits() (Bandwidth, error) {
	if a.Bandwidth != (Bandwidth{}) {
		return a.Bandwidth, nil
	}
	var b Bandwidth
	var errs []error
	for _, r := range []struct {
		key string
		to  *uint64
	}{{IngressAnnotation, &b.Ingress}, {EgressAnnotation, &b.Egress}} {
		text, ok := a.Annotations[r.key]
		if !ok {
			continue
		}
		rate, err := parseRate(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("annotation %s: %w", r.key, err))
			continue
		}
		*r.to = rate
	}
	return b, oneLine(errs)
}

// arg gives every rate a burst, without which the bandwidth plugin refuses it:
// the one that containerd gives.
func (b Bandwidth) arg() bandwidthArg {
	const burst = 1<<32 - 1
	arg := bandwidthArg{IngressRate: b.Ingress, EgressRate: b.Egress}
	if b.Ingress > 0 {
		arg.IngressBurst = burst
	}
	if b.Egress > 0 {
		arg.EgressBurst = burst
	}
	return arg
}

// The limits of a rate, as Kubernetes has them: 1k to 1P bits per second.
const (
	minRate = 1_000
	maxRate = 1_000_000_000_000_000
)

var quantitySuffix = map[string]string{
	"": "1", "m": "1/1000",
	"k": "1e3", "M": "1e6", "G": "1e9", "T": "1e12", "P": "1e15", "E": "1e18",
	"Ki": "1024", "Mi": "1048576", "Gi": "1073741824", "Ti": "1099511627776", "Pi": "1125899906842624", "Ei": "1152921504606846976",
}

// parseRate reads a Kubernetes quantity ("10M", "1.5Gi", "2e6") as bits per
// second, rounded up as Kubernetes rounds.
func parseRate(text string) (uint64, error) {
	bad := func(why string) (uint64, error) {
		return 0, fmt.Errorf("%.40q: %s: %w", text, why, ErrInvalid)
	}
	digits := strings.TrimPrefix(text, "+")
	end := strings.IndexFunc(digits, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	suffix := ""
	if end >= 0 {
		digits, suffix = digits[:end], digits[end:]
	}
	factor, ok := quantitySuffix[suffix]
	if !ok {
		factor, ok = exponent(suffix)
	}
	if !ok || len(digits) > 20 || !strings.ContainsAny(digits, "0123456789") {
		return bad("not a quantity")
	}
	number, ok := new(big.Rat).SetString(strings.TrimSuffix(digits, "."))
	if !ok {
		return bad("not a quantity")
	}
	scale, _ := new(big.Rat).SetString(factor) // from the table, or checked by exponent
	number.Mul(number, scale)
	if number.Cmp(big.NewRat(minRate, 1)) < 0 || number.Cmp(big.NewRat(maxRate, 1)) > 0 {
		return bad("not between 1k and 1P bits per second")
	}
	q, rest := new(big.Int).QuoRem(number.Num(), number.Denom(), new(big.Int))
	if rest.Sign() > 0 {
		q.Add(q, big.NewInt(1))
	}
	return q.Uint64(), nil
}

// exponent reads "e6" or "E-3", of at most two digits.
func exponent(s string) (string, bool) {
	if len(s) < 2 || (s[0] != 'e' && s[0] != 'E') {
		return "", false
	}
	digits := strings.TrimLeft(s[1:], "+-")
	if len(digits) == 0 || len(digits) > 2 || len(s)-1-len(digits) > 1 || strings.Trim(digits, "0123456789") != "" {
		return "", false
	}
	return "1" + s, true
}

// wantedIPs are the addresses asked for: the field, or where that says nothing
// the annotation.
func (a Attachment) wantedIPs() ([]string, error) {
	wanted := a.IPs
	if text, ok := a.Annotations[IPsAnnotation]; len(wanted) == 0 && ok {
		wanted = strings.Split(text, ",")
	}
	var ips []string
	var errs []error
	for _, ip := range wanted {
		ip = strings.TrimSpace(ip)
		_, errAddr := netip.ParseAddr(ip)
		_, errPrefix := netip.ParsePrefix(ip)
		if errAddr != nil && errPrefix != nil {
			errs = append(errs, fmt.Errorf("requested IP %.60q: not an address: %w", ip, ErrInvalid))
			continue
		}
		ips = append(ips, ip)
	}
	return ips, oneLine(errs)
}
