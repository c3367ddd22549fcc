package plugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/netns/nftables"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestErrors has what the programs refuse refused, with their code.
func TestErrors(t *testing.T) {
	bin := programs(t)
	const ok = `"cniVersion": "1.1.0", "name": "net"`
	tests := []struct {
		name, plugin, conf string
		env                []string // in addition
		want               string
	}{
		{"no JSON", "bridge", `{`, nil, "network config"},
		{"no name", "bridge", `{"cniVersion": "1.0.0"}`, nil, "name"},
		{"not a name", "bridge", `{"cniVersion": "1.0.0", "name": "a/b"}`, nil, "invalid characters found in network name"},
		{"a version to come", "bridge", `{"cniVersion": "9.0.0", "name": "net"}`, nil, "incompatible CNI versions"},
		{"no container", "bridge", `{` + ok + `}`, []string{"CNI_CONTAINERID="}, "required env variables [CNI_CONTAINERID] missing"},
		{"not a container", "bridge", `{` + ok + `}`, []string{"CNI_CONTAINERID=a b"}, "invalid characters in containerID"},
		{"not an interface", "bridge", `{` + ok + `}`, []string{"CNI_IFNAME=a/b"}, "interface name"},
		{"no namespace", "bridge", `{` + ok + `}`, []string{"CNI_NETNS="}, "required env variables [CNI_NETNS] missing"},
		{"a namespace that is not there", "bridge", `{` + ok + `}`, []string{"CNI_NETNS=/none"}, `failed to open netns "/none"`},
		{"a file that is no namespace", "bridge", `{` + ok + `}`, []string{"CNI_NETNS=/etc/passwd"}, "unknown FS magic"},
		{"the host's namespace", "loopback", `{` + ok + `}`, []string{"CNI_NETNS=DIR/self"}, "should not be the same"},
		{"an unknown command", "bridge", `{` + ok + `}`, []string{"CNI_COMMAND=MOVE"}, "unknown CNI_COMMAND: MOVE"},
		{"CHECK of a version before", "bridge", `{"cniVersion": "0.3.1", "name": "net"}`, []string{"CNI_COMMAND=CHECK"}, "config version does not allow CHECK"},
		{"STATUS of a version before", "bridge", `{"cniVersion": "1.0.0", "name": "net"}`, []string{"CNI_COMMAND=STATUS"}, "config version does not allow STATUS"},
		{"GC of a version before", "bridge", `{"cniVersion": "1.0.0", "name": "net"}`, []string{"CNI_COMMAND=GC"}, "config version does not allow GC"},
		{"unknown arguments", "bridge", `{` + ok + `}`, []string{"CNI_ARGS=A=b"}, "unknown args"},
		{"hairpin and promiscuous", "bridge", `{` + ok + `, "hairpinMode": true, "promiscMode": true}`, nil, "cannot set hairpin mode and promiscuous mode at the same time"},
		{"a link that is no bridge", "bridge", `{` + ok + `, "bridge": "lo"}`, nil, `"lo" already exists but is not a bridge`},
		{"no ranges", "bridge", `{` + ok + `, "ipam": {"type": "host-local"}}`, nil, "no IP ranges specified"},
		{"a range that is none", "bridge", `{` + ok + `, "ipam": {"type": "host-local", "subnet": "10.0.0.0/31"}}`, nil, "too small"},
		{"an address out of range", "bridge", `{` + ok + `, "ipam": {"type": "host-local", "dataDir": "DIR/ipam", "subnet": "10.7.0.0/24"}, "runtimeConfig": {"ips": ["10.9.0.1"]}}`, nil, "failed to allocate all requested IPs: 10.9.0.1"},
		{"a gateway's address", "host-local", `{` + ok + `, "ipam": {"type": "host-local", "dataDir": "DIR/ipam", "subnet": "10.7.0.0/24"}, "runtimeConfig": {"ips": ["10.7.0.1"]}}`, nil, "gateway"},
		{"an unknown backend", "bridge", `{` + ok + `, "ipMasq": true, "ipMasqBackend": "x", "ipam": {"type": "host-local", "dataDir": "DIR/ipam", "subnet": "10.7.0.0/24"}}`, nil, `unknown ipmasq backend "x"`},
		{"another bridge's address", "bridge", `{` + ok + `, "bridge": "br9", "isGateway": true, "ipam": {"type": "host-local", "dataDir": "DIR/ipam", "subnet": "10.7.0.0/24"}}`, nil, `"br9" already has an IP address different from`},
		{"CHECK without a result", "bridge", `{` + ok + `}`, []string{"CNI_COMMAND=CHECK"}, "prevResult"},
		{"ports without a result", "portmap", `{` + ok + `}`, nil, "must be called as chained plugin"},
		{"a port of 0", "portmap", `{` + ok + `, "prevResult": {"cniVersion": "1.1.0", "ips": []}, "runtimeConfig": {"portMappings": [{"hostPort": 0, "containerPort": 80, "protocol": "tcp"}]}}`, nil, "Invalid host port number: 0"},
		{"two marks", "portmap", `{` + ok + `, "markMasqBit": 3, "externalSetMarkChain": "X"}`, nil, "Cannot specify externalSetMarkChain and markMasqBit"},
		{"a bit too far", "portmap", `{` + ok + `, "markMasqBit": 32}`, nil, "MasqMarkBit must be between 0 and 31"},
		{"an unknown backend for ports", "portmap", `{` + ok + `, "backend": "x", "prevResult": {"cniVersion": "1.1.0", "ips": []}, "runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 80, "protocol": "tcp"}]}}`, nil, `unrecognized backend "x"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t)
			h.said("", "sh", "-c", "ip link add br9 type bridge && ip addr add 10.6.0.1/16 dev br9 && ip link set br9 up")
			h.pod("pod1")
			self := filepath.Join(h.dir, "self")
			if err := errors.Join(os.WriteFile(self, nil, 0o600), unix.Mount("/proc/thread-self/ns/net", self, "", unix.MS_BIND, "")); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Unmount(self, unix.MNT_DETACH) })
			env := append([]string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=pod1", "CNI_NETNS=" + h.pods["pod1"], "CNI_IFNAME=eth0", "CNI_PATH=" + bin, "CNI_ARGS=", "PATH=" + os.Getenv("PATH")}, tt.env...)
			for i := range env {
				env[i] = strings.ReplaceAll(env[i], "=DIR/", "="+h.dir+"/")
			}
			clean := func() { h.said("pod1", "sh", "-c", "! ip link show eth0 || ip link del eth0") }
			conf := []byte(strings.ReplaceAll(tt.conf, "DIR", h.dir))
			_, told := byProgram(bin).exec(limited(t), filepath.Join(bin, tt.plugin), conf, env)
			clean()
			_, err := (&Plugins{}).Answer(limited(t), tt.plugin, conf, env, nil)
			theirs, _ := errors.AsType[*types.Error](told)
			ours, _ := errors.AsType[*types.Error](err)
			if theirs == nil || ours == nil || theirs.Code != ours.Code || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v (%+v), the program: %v (%+v), want %q", err, ours, told, theirs, tt.want)
			}
			clean()
			for _, f := range strings.Split(h.files(), "\n") {
				if strings.Contains(f, "/10.") {
					t.Errorf("left behind: %s", f)
				}
			}
		})
	}
}

// TestUnsupported: what is left to the programs is named, and nothing is done.
func TestUnsupported(t *testing.T) {
	tests := []struct{ plugin, conf, want string }{
		{"bridge", `{"vlan": 0, "macspoofchk": false, "preserveDefaultVlan": true, "ipam": {"type": "host-local"}}`, ""},
		{"bridge", `{"my own": "note"}`, ""},
		{"bridge", `{"vlan": 7}`, "vlan"},
		{"bridge", `{"vlanTrunk": [{"id": 7}]}`, "vlanTrunk"},
		{"bridge", `{"macspoofchk": true}`, "macspoofchk"},
		{"bridge", `{"ipam": {"type": "dhcp"}}`, "ipam.type"},
		{"bridge", `{`, ""},
		{"ptp", `{"ipam": {"type": "host-local"}}`, ""},
		{"ptp", `{}`, "ipam.type"},
		{"portmap", `{"conditionsV4": ["-d", "10.0.0.1"], "conditionsV6": []}`, ""},
		{"portmap", `{"conditionsV4": ["ip", "daddr", "10.0.0.1"]}`, "conditionsV4"},
		{"portmap", `{"conditionsV6": ["ip6", "daddr", "::1"]}`, "conditionsV6"},
		{"portmap", `{"conditionsV4": [""]}`, "conditionsV4"},
		{"portmap", `{"conditionsV4": ["-d", "10.0.0.1", "-t", "raw"]}`, "conditionsV4"},
		{"portmap", `{"conditionsV4": ["-m", "comment", "--comment", "two words"]}`, "conditionsV4"},
		{"portmap", `{"conditionsV6": ["!", "-d", "fc00::/7", "-j", "DROP"]}`, "conditionsV6"},
		{"portmap", `{"externalSetMarkChain": "KUBE-MARK-MASQ"}`, ""},
		{"portmap", `{"externalSetMarkChain": "a b"}`, "externalSetMarkChain"},
		{"portmap", `{"runtimeConfig": {"portMappings": [{"protocol": "tcp", "hostIP": "nowhere"}]}}`, "runtimeConfig.portMappings.hostIP"},
		{"portmap", `{"runtimeConfig": {"portMappings": [{"protocol": "tcp", "hostIP": "::ffff:10.0.0.1"}]}}`, "runtimeConfig.portMappings.hostIP"},
		{"portmap", `{"runtimeConfig": {"portMappings": [{"protocol": "tcp", "hostIP": "::1"}, {"protocol": "sctp", "hostIP": "0.0.0.0"}]}}`, ""},
		{"portmap", `{"runtimeConfig": {"portMappings": [{"protocol": "dccp"}]}}`, "runtimeConfig.portMappings.protocol"},
		{"loopback", `{}`, ""},
		{"host-local", `{}`, ""},
		{"tuning", `{}`, "type"},
	}
	for _, tt := range tests {
		p := &Plugins{}
		if got := p.Unsupported(tt.plugin, []byte(tt.conf)); got != tt.want {
			t.Errorf("%s %s: %q, want %q", tt.plugin, tt.conf, got, tt.want)
		}
		if tt.want == "" {
			continue
		}
		conf := []byte(`{"cniVersion": "1.0.0", "name": "net", ` + strings.TrimPrefix(tt.conf, "{"))
		conf = []byte(strings.Replace(string(conf), ", }", "}", 1))
		_, err := p.Answer(t.Context(), tt.plugin, conf, []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=a", "CNI_NETNS=/none", "CNI_IFNAME=eth0"}, nil)
		if told, _ := errors.AsType[*types.Error](err); told == nil || !strings.Contains(told.Msg, tt.plugin) || !strings.Contains(told.Msg, tt.want) && tt.plugin != "tuning" {
			t.Errorf("%s: %v", tt.plugin, err)
		}
	}
}

// TestReference recognizes the project's programs, and no others.
func TestReference(t *testing.T) {
	bin := programs(t)
	var p Programs
	for range 2 {
		for _, name := range []string{"loopback", "bridge", "ptp", "host-local", "portmap"} {
			if path := filepath.Join(bin, name); !p.Reference(path) {
				t.Errorf("%s is not recognized", path)
			}
		}
		if p.Reference(filepath.Join(bin, "firewall")) || p.Reference(filepath.Join(bin, "none")) {
			t.Error("what is not answered is recognized")
		}
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "bridge")
	replace := func(with string) {
		t.Helper()
		data, err := os.ReadFile(with)
		if err == nil {
			err = os.WriteFile(path+".new", data, 0o755)
		}
		if err := errors.Join(err, os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
	}
	replace(filepath.Join(bin, "bridge"))
	if !p.Reference(path) {
		t.Error("a copy is not recognized")
	}
	replace(filepath.Join(bin, "ptp"))
	if p.Reference(path) {
		t.Error("ptp is recognized as bridge")
	}
	replace("/proc/self/exe")
	if p.Reference(path) {
		t.Error("another program is recognized")
	}

	const main = module + "/plugins/main/bridge"
	of := func(path, version string, ldflags ...string) *debug.BuildInfo {
		i := &debug.BuildInfo{Path: path, Main: debug.Module{Path: module, Version: version}}
		for _, f := range ldflags {
			i.Settings = append(i.Settings, debug.BuildSetting{Key: "-ldflags", Value: f})
		}
		return i
	}
	for _, tt := range []struct {
		info *debug.BuildInfo
		want bool
	}{
		{of(main, "v1.9.1"), true},
		{of(main, "v1.9.0"), true},
		{of(main, "v1.9.1+dirty"), false},
		{of(main, "v1.8.0"), false},
		{of(main, "v1.10.0"), false},
		{of(main, "v2.9.0"), false},
		{of(main, "v1.9.2-0.20260101000000-abcdefabcdef"), false},
		{of(main, "v1.9.2-rc1"), false},
		{of(main, "(devel)"), false},
		{of(main, "(devel)", "-extldflags -static -X "+module+"/pkg/utils/buildversion.BuildVersion=v1.9.1"), true},
		{of(main, "", "-X "+module+"/pkg/utils/buildversion.BuildVersion=v1.5.0"), false},
		{of(main, "(devel)", "-s -w"), false},
		{of("example.org/plugins/main/bridge", "v1.9.1"), false},
		{of(module+"/plugins/meta/bridge", "v1.9.1"), false},
		{&debug.BuildInfo{}, false},
	} {
		if got := isReference(tt.info, "bridge"); got != tt.want {
			t.Errorf("%s %s %v: %t", tt.info.Path, tt.info.Main.Version, tt.info.Settings, got)
		}
	}
}

// usual is a node's usual configuration, and ports for a pod.
func usual(t testing.TB) chain {
	for _, c := range chains {
		if c.name == "a node's usual" {
			return c
		}
	}
	t.Fatal("no such chain")
	return chain{}
}

// TestMany has fifty pods come and go at once, half of them by programs.
func TestMany(t *testing.T) {
	bin := programs(t)
	c := usual(t)
	c.caps = nil // a port of the host is one pod's
	h := newHost(t)
	us, program := byUs(&Plugins{}), byProgram(bin)
	const pods = 50
	id := func(i int) string { return fmt.Sprintf("pod%d", i) }
	way := func(i int) way {
		if i%2 == 0 {
			return us
		}
		return program
	}
	for i := range pods {
		h.pod(id(i))
	}
	each := func(do func(i int) error) {
		t.Helper()
		errs := make([]error, pods)
		h.together(pods, func(i int) { errs[i] = do(i) })
		if err := errors.Join(errs...); err != nil {
			t.Error(err)
		}
	}
	var mu sync.Mutex
	addresses := map[string]int{}
	each(func(i int) error {
		result, err := h.add(way(i), c, id(i))
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		at := result[strings.Index(result, `"10.7.`):]
		at = at[:strings.Index(at, ",")]
		if other, taken := addresses[at]; taken {
			return fmt.Errorf("pods %d and %d have %s", other, i, at)
		}
		addresses[at] = i
		return nil
	})
	each(func(i int) error { return h.del(way(i+1), c, id(i)) })
	if left := h.said("", "iptables-save") + h.files() + h.said("", "ip", "link"); strings.Contains(left, "pod") || strings.Contains(left, "eth0") || strings.Contains(left, "veth") {
		t.Errorf("left behind:\n%s", left)
	}
}

// together calls do at once, n times, on threads in the host's namespace.
func (h *host) together(n int, do func(i int)) {
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		h.t.Fatal(err)
	}
	defer here.Close()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			onThread(func() {
				if err := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); err != nil {
					h.t.Error(err)
					return
				}
				do(i)
			})
		})
	}
	all.Wait()
}

// TestDelOfHalf takes away what a crash has left at any moment of ADD or of DEL.
func TestDelOfHalf(t *testing.T) {
	programs(t)
	c := usual(t)
	for name, damage := range map[string]func(*host){
		"the interface is gone":          func(h *host) { h.said("pod1", "ip", "link", "del", "eth0") },
		"the namespace is gone":          func(h *host) { h.lose("pod1") },
		"the address is given back":      func(h *host) { os.RemoveAll(filepath.Join(h.dir, "ipam")) },
		"all rules are gone":             func(h *host) { h.said("", "nft", "flush", "ruleset") },
		"nothing calls the pod's chains": func(h *host) { h.said("", "iptables", "-t", "nat", "-F", "POSTROUTING") },
		"the result is gone":             func(h *host) { os.RemoveAll(filepath.Join(h.dir, "cache")) },
	} {
		for _, backend := range []string{"iptables", "nftables"} {
			c := c
			c.conf = strings.Replace(c.conf, `"ipMasq": true`, `"ipMasq": true, "ipMasqBackend": "`+backend+`"`, 1)
			t.Run(name+", "+backend, func(t *testing.T) {
				h := newHost(t)
				h.pod("pod1")
				if _, err := h.add(byUs(&Plugins{}), c, "pod1"); err != nil {
					t.Fatal(err)
				}
				damage(h)
				for range 2 {
					if err := h.del(byUs(&Plugins{}), c, "pod1"); err != nil {
						t.Error(err)
					}
				}
				if files := h.files(); strings.Contains(files, "/10.") {
					t.Errorf("left behind:\n%s", files)
				}
				left := []string{h.said("", "nft", "list", "ruleset"), h.said("", "iptables-save")}
				if _, there := h.pods["pod1"]; there { // else the kernel takes its time
					left = append(left, h.said("", "ip", "link"))
				}
				for _, rules := range left {
					if strings.Contains(rules, "pod1") || strings.Contains(rules, "10.7.0.2") || strings.Contains(rules, "veth") {
						t.Errorf("left behind:\n%s", rules)
					}
				}
			})
		}
	}
}

// TestGivenUp: when the caller's time is over nothing more is made, and DEL finds what was.
func TestGivenUp(t *testing.T) {
	programs(t)
	h := newHost(t)
	h.pod("pod1")
	cause := errors.New("two minutes are over")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	c := usual(t)
	_, err := h.cni(byUs(&Plugins{})).AddNetworkList(ctx, h.list(c), h.runtimeConf(c, "pod1"))
	if !errors.Is(err, cause) {
		t.Errorf("ADD = %v", err)
	}
	if err := h.del(byUs(&Plugins{}), c, "pod1"); err != nil {
		t.Error(err)
	}
	if text := h.said("pod1", "ip", "link") + h.files(); strings.Contains(text, "eth0") {
		t.Errorf("left behind: %s", text)
	}
}

// TestLockIsAwaited: host-local's lock is everybody's, and waiting for it has an end.
func TestLockIsAwaited(t *testing.T) {
	dir := t.TempDir()
	var r, others reservations
	theirs, err := others.open(limited(t), dir, "net")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("over")
	cancel(cause)
	for _, wait := range []*reservations{&r, &others} { // by the file, by the place within the process
		if _, err := wait.open(ctx, dir, "net"); !errors.Is(err, cause) {
			t.Errorf("with a held lock: %v", err)
		}
	}
	if ok, err := theirs.Reserve("pod1", "eth0", []byte{10, 7, 0, 2}, "0"); !ok || err != nil {
		t.Error(ok, err)
	}
	if ok, err := theirs.Reserve("pod2", "eth0", []byte{10, 7, 0, 2}, "0"); ok || err != nil {
		t.Error("given twice", err)
	}
	if err := theirs.Close(); err != nil {
		t.Error(err)
	}
	ours, err := r.open(limited(t), dir, "net")
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	if ips := ours.GetByID("pod1", "eth0"); len(ips) != 1 || ips[0].String() != "10.7.0.2" {
		t.Error(ips)
	}
	if ips := ours.GetByID("pod1", "eth1"); len(ips) != 0 {
		t.Error("another interface's", ips)
	}
	if err := os.WriteFile(filepath.Join(dir, "net", "10.7.0.9"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"old", "pod1"} {
		if err := ours.ReleaseByID(id, "eth0"); err != nil {
			t.Error(err)
		}
		if ips := ours.GetByID(id, "eth0"); len(ips) != 0 {
			t.Error(ips)
		}
	}
}

// BenchmarkAdd is ADD and DEL of a node's usual configuration, with ports and without, both ways.
func BenchmarkAdd(b *testing.B) {
	bin := programs(b)
	for _, with := range []struct {
		name string
		caps map[string]any
	}{{"no ports", nil}, {"ports", ports}} {
		for _, w := range []way{byProgram(bin), byUs(&Plugins{})} {
			for _, command := range []string{"ADD", "DEL"} {
				b.Run(command+", "+with.name+", "+w.name, func(b *testing.B) {
					c := usual(b)
					c.caps = with.caps
					h := newHost(b)
					if err := nftables.Keep(); err != nil { // as berthd does
						b.Fatal(err)
					}
					for i := 0; b.Loop(); i++ {
						b.StopTimer()
						id := fmt.Sprintf("pod%d", i)
						h.pod(id)
						timed := func(of string, do func() error) {
							if of == command {
								b.StartTimer()
								defer b.StopTimer()
							}
							if err := do(); err != nil {
								b.Fatal(err)
							}
						}
						timed("ADD", func() error { _, err := h.add(w, c, id); return err })
						timed("DEL", func() error { return h.del(w, c, id) })
						h.lose(id)
						b.StartTimer()
					}
				})
			}
		}
	}
}
