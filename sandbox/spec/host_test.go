package spec

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func localhostSeccomp(s *runtimeapi.LinuxContainerSecurityContext) {
	s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/x"}
}

// TestProbeHost looks at the machine the test runs on.
func TestProbeHost(t *testing.T) {
	h, err := ProbeHost()
	if err != nil {
		t.Fatal(err)
	}
	if h.Hostname == "" || h.OOMScoreAdjMin < -1000 || h.OOMScoreAdjMin > 1000 {
		t.Errorf("host %+v", h)
	}
	if v2 := exists(cgroupRoot + "/cgroup.controllers"); v2 != h.CgroupV2 {
		t.Errorf("cgroup v2 is %t, want %t", h.CgroupV2, v2)
	}
	devices, err := HostDevices()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range devices {
		if slices.Contains([]string{"/dev/ptmx", "/dev/console"}, d.Path) || filepath.Dir(d.Path) == "/dev/pts" {
			t.Errorf("%s is the container's own", d.Path)
		}
	}
	if !slices.ContainsFunc(devices, func(d specs.LinuxDevice) bool {
		return d.Path == "/dev/null" && d.Type == "c" && d.Major == 1 && d.Minor == 3 && *d.FileMode == 0o666
	}) {
		t.Errorf("no /dev/null among %d devices", len(devices))
	}
	// What the host can do must be settable, or no container starts.
	in := request(asPrivileged)
	in.Host, in.Host.Devices = h, devices
	in.Container.Linux.Resources.OomScoreAdj = -1000
	s, err := Container(in)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	if want, err := oomScoreAdjMin(h.Capabilities); err != nil || *s.Process.OOMScoreAdj != want {
		t.Errorf("oom score %d, present %s, want %d, %v", *s.Process.OOMScoreAdj, before, want, err)
	}
	if !slices.Equal(s.Process.Capabilities.Bounding, h.Capabilities) {
		t.Errorf("capabilities %v, host's %v", s.Process.Capabilities.Bounding, h.Capabilities)
	}
}

func TestCapabilitiesIn(t *testing.T) {
	got, err := capabilitiesIn("CapInh:\t0\nCapPrm:\t0000000000000403\nCapEff:\tff\nCapBnd:\t0000000000200401\n")
	if err != nil || !slices.Equal(got, []string{"CAP_CHOWN", "CAP_NET_BIND_SERVICE"}) {
		t.Errorf("capabilities %v, %v", got, err)
	}
	for _, bad := range []string{"", "CapPrm:\t0\n", "CapPrm:\tx\nCapBnd:\t0\n"} {
		if got, err := capabilitiesIn(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func TestOOMScoreAdjMin(t *testing.T) {
	if v, err := oomScoreAdjMin([]string{"CAP_SYS_RESOURCE"}); v != -1000 || err != nil {
		t.Errorf("with CAP_SYS_RESOURCE: %d, %v", v, err)
	}
}

// TestLoadDevices makes devices and folders of links to them.
func TestLoadDevices(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/dev/zero", link); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	device := func(host, at, access string) *runtimeapi.Device {
		return &runtimeapi.Device{HostPath: host, ContainerPath: at, Permissions: access}
	}
	nodes, rules, err := LoadDevices([]*runtimeapi.Device{device("/dev/null", "/dev/nil", "rw"), device(link, "", ""), device(dir, "/dev/none", "r")})
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes) != 2 || nodes[0].Path != "/dev/nil" || nodes[0].Minor != 3 || nodes[1].Path != link || nodes[1].Minor != 5 {
		t.Errorf("nodes %+v", nodes)
	}
	if len(rules) != 2 || rules[0].Access != "rw" || *rules[0].Minor != 3 || !rules[0].Allow || rules[1].Access != "rwm" {
		t.Errorf("rules %+v", rules)
	}
	nodes, rules, err = LoadDevices(nil)
	if nodes == nil || rules == nil || err != nil {
		t.Errorf("no devices: %v, %v, %v", nodes, rules, err)
	}
	for name, d := range map[string]*runtimeapi.Device{
		"missing": device(filepath.Join(dir, "none"), "/dev/x", "r"), "a file": device(file, "/dev/x", "r"),
		"relative": device("null", "/dev/x", "r"), "relative inside": device("/dev/null", "x", "r"),
		"permissions": device("/dev/null", "/dev/x", "rx"), "too many": device("/dev/null", "/dev/x", "rrwm"),
	} {
		if _, _, err := LoadDevices([]*runtimeapi.Device{d}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLoadDeviceFolder finds the devices in a folder, under the name they get.
func TestLoadDeviceFolder(t *testing.T) {
	nodes, _, err := LoadDevices([]*runtimeapi.Device{{HostPath: "/dev", ContainerPath: "/host/dev"}})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(nodes, func(d specs.LinuxDevice) bool { return d.Path == "/host/dev/null" }) {
		t.Errorf("no null among %d nodes", len(nodes))
	}
}
