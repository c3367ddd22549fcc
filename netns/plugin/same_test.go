package plugin

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

const ipam4 = `"ipam": {"type": "host-local", "dataDir": "DIR/ipam", "ranges": [[{"subnet": "10.7.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}`
const ipam6 = `"ipam": {"type": "host-local", "dataDir": "DIR/ipam", "ranges": [[{"subnet": "fd00:7::/64"}]], "routes": [{"dst": "::/0"}]}`
const ipam46 = `"ipam": {"type": "host-local", "dataDir": "DIR/ipam", "ranges": [[{"subnet": "10.7.0.0/16"}], [{"subnet": "fd00:7::/64"}]],
	"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}`
const noRoutes46 = `"ipam": {"type": "host-local", "dataDir": "DIR/ipam", "ranges": [[{"subnet": "10.7.0.0/16"}], [{"subnet": "fd00:7::/64"}]]}`
const portmapping = `{"type": "portmap", "capabilities": {"portMappings": true}}`

func plugins(all ...string) string { return pluginsOf("1.0.0", all...) }

func pluginsOf(version string, all ...string) string {
	return fmt.Sprintf(`{"cniVersion": %q, "name": "net", "plugins": [%s]}`, version, strings.Join(all, ", "))
}

func bridgeWith(keys string) string {
	return `{"type": "bridge", "bridge": "br0", "capabilities": {"ips": true, "ipRanges": true, "mac": true}, ` + keys + `}`
}

type mapping = map[string]any

// ports are port mappings of each kind.
var ports = map[string]any{"portMappings": []mapping{
	{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
	{"hostPort": 8053, "containerPort": 53, "protocol": "udp"},
	{"hostPort": 8081, "containerPort": 81, "protocol": "tcp", "hostIP": "127.0.0.1"},
	{"hostPort": 8082, "containerPort": 82, "protocol": "tcp", "hostIP": "fd00::1"},
	{"hostPort": 8083, "containerPort": 83, "protocol": "sctp", "hostIP": "0.0.0.0"},
}}

func manyPorts() map[string]any {
	var all []mapping
	for i := range 33 {
		all = append(all, mapping{"hostPort": 9000 + i, "containerPort": 80, "protocol": "tcp"})
	}
	return map[string]any{"portMappings": all}
}

// chains are configurations that are answered.
var chains = []chain{
	{name: "loopback", conf: plugins(`{"type": "loopback"}`)},
	{name: "loopback in 0.3.1", conf: pluginsOf("0.3.1", `{"type": "loopback"}`)},
	{name: "bridge", conf: plugins(bridgeWith(ipam4))},
	{name: "bridge, loopback behind it", conf: plugins(bridgeWith(ipam4), `{"type": "loopback"}`)},
	{name: "a gateway", conf: plugins(bridgeWith(`"isGateway": true, ` + ipam4))},
	{name: "a node's usual", conf: pluginsOf("1.1.0", bridgeWith(`"isGateway": true, "ipMasq": true, "hairpinMode": true, `+ipam4), portmapping), caps: ports},
	{name: "no ports", conf: plugins(bridgeWith(`"isGateway": true, "ipMasq": true, `+ipam4), portmapping)},
	{name: "dual stack", conf: plugins(bridgeWith(`"isDefaultGateway": true, "ipMasq": true, `+noRoutes46), portmapping), caps: ports},
	{name: "default routes of its own", conf: plugins(bridgeWith(`"isDefaultGateway": true, "ipam": {"type": "host-local", "dataDir": "DIR/ipam", "ranges": [[{"subnet": "10.7.0.0/16"}], [{"subnet": "fd00:7::/64"}]],
		"routes": [{"dst": "0.0.0.0/0", "gw": "10.7.0.9"}]}`))},
	{name: "IPv6 alone", conf: plugins(bridgeWith(`"isGateway": true, "ipMasq": true, `+ipam6), portmapping), caps: ports},
	{name: "nftables", conf: plugins(bridgeWith(`"isGateway": true, "ipMasq": true, "ipMasqBackend": "nftables", `+ipam46), `{"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}}`), caps: ports},
	{name: "nftables without SNAT", conf: plugins(bridgeWith(`"isGateway": true, "ipMasq": true, "ipMasqBackend": "nftables", `+ipam4), `{"type": "portmap", "backend": "nftables", "snat": false, "capabilities": {"portMappings": true}}`), caps: ports},
	{name: "iptables by name", conf: plugins(bridgeWith(`"isGateway": true, "ipMasq": true, "ipMasqBackend": "iptables", `+ipam4), `{"type": "portmap", "backend": "iptables", "capabilities": {"portMappings": true}}`), caps: ports},
	{name: "promiscuous, with another MTU, isolated", conf: plugins(bridgeWith(`"isGateway": true, "promiscMode": true, "mtu": 1400, "portIsolation": true, "enabledad": true, ` + ipam46))},
	{name: "another bridge's address", conf: plugins(bridgeWith(`"isGateway": true, "forceAddress": true, ` + ipam4))},
	{name: "a link alone", conf: plugins(`{"type": "bridge", "bridge": "br0", "capabilities": {"mac": true}, "ipam": {}}`), caps: map[string]any{"mac": "02:11:22:33:44:55"}},
	{name: "a link that stays down", conf: plugins(`{"type": "bridge", "bridge": "br0", "disableContainerInterface": true, "ipam": {}}`)},
	{name: "a MAC address in CNI_ARGS", conf: plugins(bridgeWith(ipam4)), args: [][2]string{{"MAC", "02:11:22:33:44:56"}}},
	{name: "an address in CNI_ARGS", conf: plugins(bridgeWith(ipam4)), args: [][2]string{{"IP", "10.7.3.4"}}, pods: 1},
	{name: "addresses that were asked for", conf: plugins(bridgeWith(`"isGateway": true, ` + ipam46)), caps: map[string]any{"ips": []string{"10.7.9.9/16", "fd00:7::99"}}, pods: 1},
	{name: "ranges of the runtime's", conf: plugins(bridgeWith(`"isGateway": false, ` + ipam4)), caps: map[string]any{"ipRanges": [][]map[string]string{{{"subnet": "10.8.0.0/24", "rangeStart": "10.8.0.7", "gateway": "10.8.0.100"}}}}},
	{name: "one range, of old", conf: pluginsOf("0.4.0", bridgeWith(`"isGateway": true, "dns": {"nameservers": ["10.0.0.10"], "domain": "x", "search": ["a.b"], "options": ["ndots:5"]},
		"ipam": {"type": "host-local", "dataDir": "DIR/ipam", "subnet": "10.9.0.0/24", "rangeStart": "10.9.0.10", "rangeEnd": "10.9.0.11", "gateway": "10.9.0.254", "resolvConf": "/dev/null", "routes": [{"dst": "192.168.0.0/16", "gw": "10.9.0.3"}]}`))},
	{name: "routes of 1.1.0", conf: pluginsOf("1.1.0", bridgeWith(`"isGateway": true, "ipam": {"type": "host-local", "dataDir": "DIR/ipam", "ranges": [[{"subnet": "10.7.0.0/16"}]],
		"routes": [{"dst": "0.0.0.0/0", "priority": 77}, {"dst": "192.168.0.0/16", "table": 99}]}`))},
	{name: "routes of 1.1.0 in 0.3.1", conf: pluginsOf("0.3.1", bridgeWith(`"isGateway": true, "ipam": {"type": "host-local", "dataDir": "DIR/ipam", "ranges": [[{"subnet": "10.7.0.0/16"}]],
		"routes": [{"dst": "0.0.0.0/0", "priority": 77}]}`))},
	{name: "ptp", conf: plugins(`{"type": "ptp", "ipMasq": true, "mtu": 1400, "dns": {"nameservers": ["10.0.0.10"]}, `+ipam4+`}`, portmapping), caps: ports},
	{name: "ptp, dual stack", conf: plugins(`{"type": "ptp", "ipMasq": true, `+ipam46+`}`, portmapping), caps: ports},
	{name: "ptp, nftables", conf: plugins(`{"type": "ptp", "ipMasq": true, "ipMasqBackend": "nftables", ` + ipam4 + `}`)},
	{name: "ports by condition", conf: plugins(bridgeWith(`"isGateway": true, `+ipam46), `{"type": "portmap", "capabilities": {"portMappings": true}, "conditionsV4": ["!", "-d", "192.0.2.0/24"], "conditionsV6": ["!", "-d", "fc00::/7"]}`), caps: ports},
	{name: "another mark", conf: plugins(bridgeWith(`"isGateway": true, `+ipam4), `{"type": "portmap", "capabilities": {"portMappings": true}, "markMasqBit": 5}`), caps: ports},
	{name: "all masqueraded", conf: plugins(bridgeWith(`"isGateway": true, `+ipam46), `{"type": "portmap", "capabilities": {"portMappings": true}, "masqAll": true}`), caps: ports},
	{name: "no SNAT", conf: plugins(bridgeWith(`"isGateway": true, `+ipam4), `{"type": "portmap", "capabilities": {"portMappings": true}, "snat": false}`), caps: ports},
	{name: "many ports", conf: plugins(bridgeWith(`"isGateway": true, `+ipam4), portmapping), caps: manyPorts()},
}

// sides are two pods, one of which has a long ID.
var sides = []string{"pod1", strings.Repeat("5d", 32)}

// TestSame has the programs and this package make the same, with two pods, and each take away
// what the other has made.
func TestSame(t *testing.T) {
	compare(t, programs(t), chains)
}

// TestSameWithOtherTools: on nodes whose iptables is the one from before nf_tables, and where there is
// none.
func TestSameWithOtherTools(t *testing.T) {
	var some []chain
	for _, c := range chains {
		switch c.name {
		case "a node's usual", "IPv6 alone", "ports by condition":
			some = append(some, c)
		}
	}
	bin := programs(t)
	tools := t.TempDir()
	for _, name := range []string{"nft", "ip", "sh", "nsenter", "grep"} {
		link(t, tools, name, name)
	}
	t.Run("without iptables", func(t *testing.T) {
		t.Setenv("PATH", tools)
		compare(t, bin, slices.DeleteFunc(slices.Clone(some), func(c chain) bool { return c.name == "ports by condition" }))
	})
	t.Run("iptables-legacy", func(t *testing.T) {
		if _, err := exec.LookPath("iptables-legacy"); err != nil {
			t.Skip(err)
		}
		for _, family := range []string{"iptables", "ip6tables"} {
			for _, of := range []string{"", "-save", "-restore"} {
				link(t, tools, family+of, family+"-legacy"+of)
			}
		}
		t.Setenv("PATH", tools)
		compare(t, bin, some)
	})
}

// link has a folder have a program by another name.
func link(t *testing.T, dir, name, program string) {
	t.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		err = os.Symlink(path, filepath.Join(dir, name))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// compare has each chain made and removed both ways, and wants the same.
func compare(t *testing.T, bin string, chains []chain) {
	for _, c := range chains {
		t.Run(c.name, func(t *testing.T) {
			program := byProgram(bin)
			want := live(t, c, program, program)
			us := func() way { return byUs(&Plugins{}) } // which knows one host
			for _, pair := range [][2]way{{us(), us()}, {us(), program}, {program, us()}} {
				got := live(t, c, pair[0], pair[1])
				what := "made " + pair[0].name + ", removed " + pair[1].name
				if len(got) != len(want) {
					continue // it has failed
				}
				for i := range want {
					wantSame(t, what+": "+want[i].what, got[i].text, want[i].text)
				}
			}
		})
	}
}

// TestTwoAddressesInANetwork: the programs cannot take such masquerading away at once.
func TestTwoAddressesInANetwork(t *testing.T) {
	c := chain{conf: plugins(bridgeWith(`"isGateway": true, "ipMasq": true, "ipam": {"type": "host-local", "dataDir": "DIR/ipam",
		"ranges": [[{"subnet": "10.7.0.0/16", "rangeEnd": "10.7.0.99"}], [{"subnet": "10.7.0.0/16", "rangeStart": "10.7.1.0"}]]}`))}
	var states []string
	for _, w := range []way{byProgram(programs(t)), byUs(&Plugins{})} {
		h := newHost(t)
		h.pod("pod1")
		if _, err := h.add(w, c, "pod1"); err != nil {
			t.Fatalf("ADD %s: %v", w.name, err)
		}
		states = append(states, h.state())
		if err := h.del(byUs(&Plugins{}), c, "pod1"); err != nil {
			t.Error(err)
		}
		if left := h.said("", "iptables-save"); strings.Contains(left, "pod1") {
			t.Errorf("left behind:\n%s", left)
		}
	}
	wantSame(t, "the state after ADD", states[1], states[0])
}

// TestGC has what nobody wants any more collected, by libcni: whoever made it.
func TestGC(t *testing.T) {
	c := usual(t)
	program, us := byProgram(programs(t)), byUs(&Plugins{})
	var states []string
	for _, pair := range [][2]way{{program, program}, {us, us}, {us, program}, {program, us}} {
		h := newHost(t)
		for _, id := range sides {
			h.pod(id)
			if _, err := h.add(pair[0], c, id); err != nil {
				t.Fatalf("ADD %s: %v", pair[0].name, err)
			}
		}
		keep := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: sides[1], IfName: "eth0"}}}
		if err := h.cni(pair[1]).GCNetworkList(limited(t), h.list(c), keep); err != nil {
			t.Errorf("GC %s: %v", pair[1].name, err)
		}
		pair[1].sweep()
		if err := h.check(pair[1], c, sides[1]); err != nil {
			t.Errorf("CHECK %s: %v", pair[1].name, err)
		}
		states = append(states, h.state())
		if text := states[len(states)-1]; strings.Contains(text, `"pod1`) || strings.Contains(text, "10.7.0.2") {
			t.Errorf("left behind, made %s, collected %s:\n%s", pair[0].name, pair[1].name, text)
		}
		wantSame(t, "made "+pair[0].name+", collected "+pair[1].name, states[len(states)-1], states[0])
	}
}

// A seen is what was seen at one moment of a life.
type seen struct{ what, text string }

// live makes two pods one way, and has them checked and removed another way.
func live(t *testing.T, c chain, makes, removes way) (all []seen) {
	t.Run(makes.name+", "+removes.name, func(t *testing.T) {
		h := newHost(t)
		if strings.HasPrefix(c.name, "another bridge's") {
			h.said("", "sh", "-c", "ip link add br0 type bridge && ip addr add 10.6.0.1/16 dev br0 && ip link set br0 up")
		}
		if strings.Contains(c.conf, `"nftables"`) {
			// The programs leave an empty table of iptables' at DEL, if there is none.
			h.said("", "sh", "-c", "for p in iptables ip6tables; do $p -t nat -N none && $p -t nat -A POSTROUTING -j none && $p -t nat -F POSTROUTING && $p -t nat -X none; done")
		}
		note := func(what, text string) { all = append(all, seen{what, text}) }
		for _, id := range sides {
			if c.pods > 0 && len(h.pods) == c.pods {
				break
			}
			h.pod(id)
			result, err := h.add(makes, c, id)
			if err != nil {
				t.Fatalf("ADD %s: %v", makes.name, err)
			}
			note("the result of ADD", plainResult(h, result))
			note("the state after ADD", h.state())
			if canCheck(c) {
				if err := h.check(removes, c, id); err != nil {
					t.Errorf("CHECK %s: %v", removes.name, err)
				}
			}
		}
		for again := range 2 { // once more: there is nothing any more
			for i, id := range sortedKeys(h.pods) {
				if err := h.del(removes, c, id); err != nil {
					t.Errorf("DEL %s: %v", removes.name, err)
				}
				if again == 0 || i == len(h.pods)-1 {
					note("the state after DEL", h.state())
				}
			}
		}
	})
	return all
}

// canCheck tells whether the programs' CHECK can succeed: it came with 0.4.0, and bridge's wants addresses, and
// its routes to be in the main table.
func canCheck(c chain) bool {
	return !strings.Contains(c.conf, `"cniVersion": "0.3`) && !strings.Contains(c.conf, `"ipam": {}`) && !strings.Contains(c.conf, `"table"`)
}
