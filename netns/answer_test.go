package netns

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/berthd/berth/netns/plugin"
)

// TestInProcess says for which configurations and programs no program is run.
func TestInProcess(t *testing.T) {
	bin := realPlugins(t)
	empty, wrapped, local := t.TempDir(), t.TempDir(), t.TempDir()
	script(t, wrapped, "bridge", "exec "+bin+"/bridge")
	script(t, local, "host-local", "exec "+bin+"/host-local")
	for _, name := range []string{"bridge", "portmap"} {
		if err := os.Symlink(filepath.Join(bin, name), filepath.Join(local, name)); err != nil {
			t.Fatal(err)
		}
	}
	const ipam = `"ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}`
	tests := []struct {
		name, conf string
		dirs       []string
		in         bool
		err        string // of a plugin that cannot be called at all
		missing    string // of the list
	}{
		{"the project's program", `{"type": "bridge", ` + ipam + `}`, []string{bin}, true, "", ""},
		{"no program", `{"type": "bridge", ` + ipam + `}`, []string{empty}, true, "", ""},
		{"somebody else's program", `{"type": "bridge", ` + ipam + `}`, []string{wrapped, bin}, false, "", ""},
		{"somebody else's program, without host-local", `{"type": "bridge", ` + ipam + `}`, []string{wrapped}, false, "", "host-local"},
		{"somebody else's host-local", `{"type": "bridge", ` + ipam + `}`, []string{local}, false, "", ""},
		{"somebody else's host-local beside nothing", `{"type": "ptp", ` + ipam + `}`, []string{local}, false, "host-local, which is no reference plugin", "ptp ("},
		{"no host-local", `{"type": "bridge", ` + ipam + `}`, []string{filepath.Join(bin, "../none"), empty}, true, "", ""},
		{"a key that is left to the program", `{"type": "bridge", "vlan": 7, ` + ipam + `}`, []string{bin}, false, "", ""},
		{"such a key without a program", `{"type": "bridge", "vlan": 7, ` + ipam + `}`, []string{empty}, false, "CNI plugin bridge: there is no such program in " + empty + ", which is needed for its key vlan", "bridge (CNI plugin bridge"},
		{"addresses by another plugin", `{"type": "bridge", "ipam": {"type": "dhcp"}}`, []string{bin}, false, "", "dhcp"},
		{"another plugin", `{"type": "firewall"}`, []string{bin}, false, "", ""},
		{"another plugin without a program", `{"type": "tuning"}`, []string{bin}, false, "", "tuning"},
		{"the project's portmap", `{"type": "portmap"}`, []string{local}, true, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := &plugins{reference: &plugin.Plugins{}}
			list, err := parseList([]byte(`{"cniVersion": "1.0.0", "name": "x", "plugins": [` + tt.conf + `]}`))
			if err != nil {
				t.Fatal(err)
			}
			if path, err := p.FindInPath(list.Plugins[0].Network.Type, tt.dirs); err == nil {
				in, err := p.inProcess(path, list.Plugins[0].Bytes, tt.dirs)
				if in != tt.in || (err != nil) != (tt.err != "") || err != nil && !says(err, tt.err) {
					t.Errorf("%t, %v", in, err)
				}
			}
			missing := missing(p, list, tt.dirs)
			if (len(missing) > 0) != (tt.missing != "") || len(missing) > 0 && missing[0][:min(len(tt.missing), len(missing[0]))] != tt.missing {
				t.Errorf("missing: %q", missing)
			}
		})
	}
	off := &plugins{}
	if _, err := off.FindInPath("bridge", []string{empty}); err == nil {
		t.Error("found without a program although it is turned off")
	}
	if in, err := off.inProcess(filepath.Join(bin, "bridge"), []byte(`{}`), []string{bin}); in || err != nil {
		t.Error(in, err)
	}
}

// TestInProcessInAChain has a plugin that is a program behind those that are answered.
func TestInProcessInAChain(t *testing.T) {
	h := newNode(t, inProcess)
	bin := t.TempDir()
	script(t, bin, "after", `cat >"$0.$CNI_COMMAND"; [ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0","ips":[{"address":"10.88.200.1/16"}]}'; exit 0`)
	h.net.o.BinDirs = append(h.net.o.BinDirs, bin)
	h.net.cni = libcni.NewCNIConfigWithCacheDir(h.net.o.BinDirs, h.net.o.CacheDir, h.net.exec)
	a := h.pod("pod-a")
	a.Conf = withPlugin(t, a.Conf, `{"type":"after"}`)
	if r := h.attach(a); r.IPs[0] != "10.88.200.1" {
		t.Errorf("the last plugin's result is not the pod's: %v", r)
	}
	h.remove(a)
	h.wantNothingLeft()
	for command, want := range map[string]string{"ADD": `"name":"brtest0"`, "DEL": `"10.88.200.1/16"`} {
		if told, err := os.ReadFile(filepath.Join(bin, "after."+command)); err != nil || !says(textError(told), `"prevResult":`, want) {
			t.Errorf("at %s it was told %s, %v", command, told, err)
		}
	}
}

type textError string

func (e textError) Error() string { return string(e) }

// TestInProcessInAUserNamespace: the pod's network namespace belongs to a user namespace.
func TestInProcessInAUserNamespace(t *testing.T) {
	h := newNode(t, inProcess)
	p, err := h.ns.Create(limited(t), "pod-a", Kinds{Net: true, User: mapped})
	if err != nil {
		t.Fatal(err)
	}
	conf, err := h.net.Conf()
	if err != nil {
		t.Fatal(err)
	}
	a := Attachment{PodID: "pod-a", NetnsPath: p.Net, Conf: conf, PortMappings: []PortMapping{{HostPort: 18080, ContainerPort: 80}}}
	r := h.attach(a)
	within(t, func() error {
		if value, err := sysctlNow("net/ipv4/conf/eth0/arp_notify"); value != "1" || err != nil {
			t.Errorf("arp_notify is %q, %v", value, err)
		}
		return nil
	}, p.Net)
	if r.IPs[0] != "10.88.0.2" {
		t.Error(r)
	}
	h.remove(a)
	h.wantNothingLeft()
}

// TestNoProgramDel: what nothing can have made without a program is taken away without one.
func TestNoProgramDel(t *testing.T) {
	dir := t.TempDir()
	p := &plugins{reference: &plugin.Plugins{}}
	conf := []byte(`{"cniVersion":"1.0.0","name":"n","type":"bridge","bridge":"btnone","vlan":5,"ipam":{}}`)
	for command, ok := range map[string]bool{"ADD": false, "DEL": true} {
		env := []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=pod1", "CNI_NETNS=", "CNI_IFNAME=eth0", "CNI_PATH=" + dir}
		if command == "ADD" {
			env[2] += "/var/run/netns/none"
		}
		if _, err := p.ExecPlugin(limited(t), absent("bridge"), conf, env); (err == nil) != ok {
			t.Errorf("%s: %v", command, err)
		}
	}
}
