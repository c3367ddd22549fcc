package spec

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var update = flag.Bool("update", false, "write testdata/*.json anew")

// A change says how a test's request differs from the plain one.
type change func(*Input)

func testHost() Host {
	return Host{
		CgroupV2: true, Swap: true, HugeTLB: true, Seccomp: true, RecursiveReadOnly: true,
		Capabilities: capabilityNames(), OOMScoreAdjMin: -1000, Hostname: "node-1",
		Devices: []specs.LinuxDevice{
			{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229},
			{Path: "/dev/vda", Type: "b", Major: 254, Minor: 0},
		},
	}
}

// request is a plain request, changed.
func request(changes ...change) Input {
	in := Input{
		ID: "c1", PodID: "p1",
		Pod: &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "shop", Uid: "u1"},
			Hostname: "web-0",
			Linux: &runtimeapi.LinuxPodSandboxConfig{
				CgroupParent: "/kubepods/burstable/podu1",
				Sysctls:      map[string]string{"net.core.somaxconn": "1024"},
				SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
					NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
				},
			},
			Annotations: map[string]string{"org.systemd.property.TimeoutStopUSec": "1"},
		},
		Container: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "app"},
			Linux: &runtimeapi.LinuxContainerConfig{
				Resources: &runtimeapi.LinuxContainerResources{},
				SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
					NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
					MaskedPaths:      []string{"/proc/kcore", "/sys/firmware"},
					ReadonlyPaths:    []string{"/proc/sys"},
				},
			},
			Annotations: map[string]string{"org.systemd.property.TimeoutStopUSec": "1"},
		},
		Image:      Image{Cmd: []string{"/bin/app"}},
		Identity:   Identity{AdditionalGIDs: []uint32{0}, Home: "/root"},
		Namespaces: Namespaces{Net: "/ns/net", IPC: "/ns/ipc", UTS: "/ns/uts"},
		Files:      Files{ResolvConf: "/pods/p1/resolv.conf", Hostname: "/pods/p1/hostname", Shm: "/pods/p1/shm"},
		Host:       testHost(),
	}
	for _, c := range changes {
		c(&in)
	}
	return in
}

func security(edit func(*runtimeapi.LinuxContainerSecurityContext)) change {
	return func(in *Input) { edit(in.Container.Linux.SecurityContext) }
}

func resources(edit func(*runtimeapi.LinuxContainerResources)) change {
	return func(in *Input) { edit(in.Container.Linux.Resources) }
}

func asPrivileged(in *Input) {
	in.Pod.Linux.SecurityContext.Privileged = true
	in.Container.Linux.SecurityContext.Privileged = true
}

func mounts(m ...*runtimeapi.Mount) change {
	return func(in *Input) { in.Container.Mounts = m }
}

func mustContainer(t *testing.T, changes ...change) *specs.Spec {
	t.Helper()
	s, err := Container(request(changes...))
	if err != nil {
		t.Fatalf("Container: %v", err)
	}
	return s
}

func asUser(in *Input) {
	in.Identity = Identity{UID: 1000, GID: 2000, AdditionalGIDs: []uint32{2000, 3000}, Home: "/home/u"}
}

func hostEverything(in *Input) {
	o := &runtimeapi.NamespaceOption{
		Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE,
	}
	in.Pod.Linux.SecurityContext.NamespaceOptions = o
	in.Container.Linux.SecurityContext.NamespaceOptions = o
	in.Namespaces, in.Files.Shm, in.Pod.Hostname = Namespaces{}, "", ""
}

func withEverything(in *Input) {
	in.Image = Image{Env: []string{"PATH=/bin", "A=image"}, Entrypoint: []string{"/entry"}, Cmd: []string{"cmd"},
		WorkingDir: "/app", Volumes: []string{"/data", "/proc", "/mnt/a/deep"}}
	in.Volumes = []string{"/vol/0", "/vol/1", "/vol/2"}
	in.Container.Args = []string{"serve"}
	in.Container.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("kubelet")}, {Key: "B", Value: []byte{0x01, 0xc3, 0xa9}}}
	in.Container.Tty = true
	in.Container.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/etc/hosts", HostPath: "/pods/etc-hosts"},
		{ContainerPath: "/mnt/a/b", HostPath: "/h/b", Readonly: true, RecursiveReadOnly: true},
		{ContainerPath: "/mnt/a", HostPath: "/h/a", Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
		{ContainerPath: "/dev/shm/", HostPath: "/h/shm", MountOptions: []string{"noexec", "nodev", "nosuid"}},
	}
	in.Devices = []specs.LinuxDevice{{Path: "/dev/gpu", Type: "c", Major: 195, Minor: 1}}
	in.Container.Devices = []*runtimeapi.Device{{ContainerPath: "/dev/gpu", HostPath: "/dev/gpu", Permissions: "rw"}}
	in.DeviceRules = []specs.LinuxDeviceCgroup{{Allow: true, Type: "c", Major: new(int64(195)), Minor: new(int64(1)), Access: "rw"}}
	in.Container.Linux.Resources = &runtimeapi.LinuxContainerResources{
		CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, CpusetCpus: "0-1", CpusetMems: "0",
		MemoryLimitInBytes: 1 << 28, OomScoreAdj: 900, Unified: map[string]string{"memory.high": "1000"},
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 1 << 21}, {PageSize: "1GB"}},
	}
}

// TestGolden compares whole specs, so that nothing in one changes unseen. The system
// calls of a seccomp profile depend on the running kernel: TestSeccomp looks at them.
func TestGolden(t *testing.T) {
	type sc = runtimeapi.LinuxContainerSecurityContext
	for name, changes := range map[string][]change{
		"plain":    nil,
		"plain-v1": {func(in *Input) { in.Host.CgroupV2 = false }},
		"systemd": {func(in *Input) {
			in.SystemdCgroup = true
			in.Pod.Linux.CgroupParent = "/kubepods.slice/kubepods-podu1.slice"
		}},
		"user":            {asUser},
		"user-restricted": {asUser, security(restricted)},
		"user-ambient": {asUser, security(func(s *sc) {
			s.Capabilities = &runtimeapi.Capability{AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}}
		})},
		"readonly-rootfs":   {security(func(s *sc) { s.ReadonlyRootfs = true })},
		"unmasked":          {security(func(s *sc) { s.MaskedPaths, s.ReadonlyPaths = nil, nil })},
		"privileged":        {asPrivileged},
		"privileged-v1":     {asPrivileged, func(in *Input) { in.Host.CgroupV2 = false }},
		"privileged-clamp":  {asPrivileged, clampedHost},
		"privileged-host":   {asPrivileged, hostEverything},
		"host-namespaces":   {hostEverything},
		"everything":        {withEverything},
		"apparmor":          {apparmor, security(func(s *sc) { s.Apparmor = &runtimeapi.SecurityProfile{} })},
		"apparmor-named":    {apparmor, security(localhost)},
		"selinux":           {selinuxHost, security(func(s *sc) { s.SelinuxOptions = &runtimeapi.SELinuxOption{Type: "my_t", Level: "s0:c1,c2"} })},
		"selinux-own-level": {selinuxHost},
	} {
		t.Run(name, func(t *testing.T) { golden(t, name, mustContainer(t, changes...)) })
	}
}

func restricted(s *runtimeapi.LinuxContainerSecurityContext) {
	s.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_BIND_SERVICE"}}
	s.NoNewPrivs = true
	s.Seccomp = &runtimeapi.SecurityProfile{}
	s.ReadonlyRootfs = true
}

func localhost(s *runtimeapi.LinuxContainerSecurityContext) {
	s.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "mine"}
}

func apparmor(in *Input) {
	in.Host.AppArmor, in.Host.AppArmorProfiles = true, []string{AppArmorProfile, "mine"}
}

func selinuxHost(in *Input) {
	in.SELinux = SELinux{Process: "system_u:system_r:container_t:s0", Privileged: "system_u:system_r:spc_t:s0",
		File: "system_u:object_r:container_file_t:s0", Level: "s0:c7,c9"}
}

// clampedHost is one without CAP_SYS_RESOURCE.
func clampedHost(in *Input) {
	in.Host.Capabilities = slices.DeleteFunc(capabilityNames(), func(n string) bool { return n == "CAP_SYS_RESOURCE" })
	in.Host.OOMScoreAdjMin = -500
	in.Container.Linux.Resources.OomScoreAdj = -999
}

func TestGoldenPause(t *testing.T) {
	for name, changes := range map[string][]change{
		"pause":          nil,
		"pause-clamped":  {clampedHost},
		"pause-host":     {hostEverything},
		"pause-apparmor": {apparmor},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Pause(request(changes...), "/run/berth/p1/rootfs")
			if err != nil {
				t.Fatal(err)
			}
			if s.Linux.Seccomp == nil {
				t.Error("no seccomp profile")
			}
			golden(t, name, s)
		})
	}
}

// golden compares s with testdata, its seccomp profile shortened.
func golden(t *testing.T, name string, s *specs.Spec) {
	t.Helper()
	if s.Linux.Seccomp != nil {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: s.Linux.Seccomp.DefaultAction}
	}
	got, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	file := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s differs; got:\n%s", file, got)
	}
}

// TestPure wants the same spec twice, and the request untouched.
func TestPure(t *testing.T) {
	in := request(withEverything, apparmor, selinuxHost, security(restricted))
	before, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for range 2 {
		s, err := Container(in)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		s.Process.Args[0], s.Process.User.AdditionalGids[0], s.Linux.MaskedPaths[0] = "changed", 9, "changed"
		texts = append(texts, string(text))
	}
	if texts[0] != texts[1] {
		t.Errorf("the same request gave two specs:\n%s\n%s", texts[0], texts[1])
	}
	after, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Errorf("the request was changed:\n%s\n%s", before, after)
	}
}

// TestRefused is what cannot become a container, and which error says so.
func TestRefused(t *testing.T) {
	type sc = runtimeapi.LinuxContainerSecurityContext
	type res = runtimeapi.LinuxContainerResources
	profile := func(kind runtimeapi.SecurityProfile_ProfileType, ref string) *runtimeapi.SecurityProfile {
		return &runtimeapi.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
	}
	const node, target = runtimeapi.NamespaceMode_NODE, runtimeapi.NamespaceMode_TARGET
	localRef := runtimeapi.SecurityProfile_Localhost
	image := &runtimeapi.ImageSpec{Image: "volume"}
	for _, tt := range []struct {
		name string
		do   change
		want error
		text string
	}{
		{"no command", func(in *Input) { in.Image = Image{} }, ErrInvalid, "no command specified"},
		{"an empty command", func(in *Input) { in.Container.Command = []string{""} }, ErrInvalid, "no command specified"},
		{"NUL in the image's command", func(in *Input) { in.Image.Cmd = []string{"a\x00b"} }, ErrInvalid, "NUL"},
		{"no pod", func(in *Input) { in.Pod = nil }, ErrInvalid, "metadata"},
		{"no container", func(in *Input) { in.Container = nil }, ErrInvalid, "metadata"},
		{"an ID that climbs", func(in *Input) { in.ID = "../x" }, ErrInvalid, "ID"},
		{"an empty pod ID", func(in *Input) { in.PodID = "" }, ErrInvalid, "ID"},
		{"privileged in a pod that is not", security(func(s *sc) { s.Privileged = true }), ErrInvalid, "privileged"},
		{"a variable without a name", func(in *Input) { in.Container.Envs = []*runtimeapi.KeyValue{{}} }, ErrInvalid, "environment"},
		{"a variable with =", func(in *Input) { in.Container.Envs = []*runtimeapi.KeyValue{{Key: "A=B"}} }, ErrInvalid, "environment"},
		{"a variable with NUL", func(in *Input) { in.Container.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte{0}}} }, ErrInvalid, "environment"},
		{"a variable that is not UTF-8", func(in *Input) { in.Container.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte{0xff}}} }, ErrUnsupported, "UTF-8"},
		{"relative working directory", func(in *Input) { in.Container.WorkingDir = "a" }, ErrInvalid, "absolute"},
		{"working directory in a descriptor", func(in *Input) { in.Container.WorkingDir = "/proc/self/fd/7" }, ErrInvalid, "descriptor"},
		{"the same from an image", func(in *Input) { in.Image.WorkingDir = "/x/../proc//1/fd/8/.." }, ErrInvalid, "descriptor"},
		{"oom score", resources(func(r *res) { r.OomScoreAdj = 1001 }), ErrInvalid, "oom_score_adj"},
		{"oom score below", resources(func(r *res) { r.OomScoreAdj = -1001 }), ErrInvalid, "oom_score_adj"},
		{"negative shares", resources(func(r *res) { r.CpuShares = -1 }), ErrInvalid, "cpu_shares"},
		{"negative period", resources(func(r *res) { r.CpuPeriod = -1 }), ErrInvalid, "cpu_period"},
		{"quota", resources(func(r *res) { r.CpuQuota = -2 }), ErrInvalid, "cpu_quota"},
		{"too short a period", resources(func(r *res) { r.CpuPeriod = 999 }), ErrInvalid, "cpu_period"},
		{"too long a period", resources(func(r *res) { r.CpuPeriod = 1_000_001 }), ErrInvalid, "cpu_period"},
		{"too small a quota", resources(func(r *res) { r.CpuQuota = 999 }), ErrInvalid, "cpu_quota"},
		{"cpuset", resources(func(r *res) { r.CpusetCpus = "0\n1" }), ErrInvalid, "cpuset_cpus"},
		{"memory nodes", resources(func(r *res) { r.CpusetMems = "all" }), ErrInvalid, "cpuset_mems"},
		{"memory limit", resources(func(r *res) { r.MemoryLimitInBytes = -2 }), ErrInvalid, "memory_limit"},
		{"swap limit", resources(func(r *res) { r.MemorySwapLimitInBytes = -2 }), ErrInvalid, "memory_swap_limit"},
		{"swap below memory", resources(func(r *res) { r.MemoryLimitInBytes, r.MemorySwapLimitInBytes = 2, 1 }), ErrInvalid, "memory_swap_limit"},
		{"page size", resources(func(r *res) { r.HugepageLimits = []*runtimeapi.HugepageLimit{{PageSize: "../2MB"}} }), ErrInvalid, "page size"},
		{"unified key that is a path", resources(func(r *res) { r.Unified = map[string]string{"../memory.max": "1"} }), ErrInvalid, "unified"},
		{"unified on v1", func(in *Input) {
			in.Host.CgroupV2 = false
			in.Container.Linux.Resources.Unified = map[string]string{"memory.max": "1"}
		}, ErrInvalid, "cgroup v1"},
		{"cgroupfs parent for systemd", func(in *Input) { in.SystemdCgroup = true }, ErrInvalid, "cgroup parent"},
		{"systemd parent for cgroupfs", func(in *Input) { in.Pod.Linux.CgroupParent = "/a.slice" }, ErrInvalid, "cgroup parent"},
		{"cgroup parent that climbs", func(in *Input) { in.Pod.Linux.CgroupParent = "/a/../../b" }, ErrInvalid, "cgroup parent"},
		{"relative container path", mounts(&runtimeapi.Mount{ContainerPath: "a", HostPath: "/a"}), ErrInvalid, "container path"},
		{"mount over the root", mounts(&runtimeapi.Mount{ContainerPath: "/a/..", HostPath: "/a"}), ErrInvalid, "root"},
		{"relative host path", mounts(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "a"}), ErrInvalid, "host path"},
		{"no host path", mounts(&runtimeapi.Mount{ContainerPath: "/a"}), ErrInvalid, "host path"},
		{"image volume without a name", mounts(&runtimeapi.Mount{ContainerPath: "/a", Image: &runtimeapi.ImageSpec{}}), ErrInvalid, "image"},
		{"image volume with a host path", mounts(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/a", Image: image}), ErrInvalid, "exclude"},
		{"image volume that propagates", mounts(&runtimeapi.Mount{ContainerPath: "/a", Image: image,
			Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL}), ErrInvalid, "PRIVATE"},
		{"image volume to relabel", mounts(&runtimeapi.Mount{ContainerPath: "/a", Image: image, SelinuxRelabel: true}), ErrInvalid, "relabel"},
		{"sub path that climbs", mounts(&runtimeapi.Mount{ContainerPath: "/a", Image: image, ImageSubPath: "a/../../b"}), ErrInvalid, "sub_path"},
		{"sub path of no image", mounts(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/a", ImageSubPath: "a"}), ErrInvalid, "sub_path"},
		{"image volume that is not mounted", mounts(&runtimeapi.Mount{ContainerPath: "/a", Image: image}), nil, "not mounted"},
		{"mount option that permits", mounts(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/a", MountOptions: []string{"suid"}}), ErrInvalid, "option"},
		{"propagation", mounts(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/a", Propagation: 7}), ErrInvalid, "propagation"},
		{"rro and not readonly", mounts(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/a", RecursiveReadOnly: true}), ErrInvalid, "recursive_read_only"},
		{"rro and propagation", mounts(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/a", Readonly: true, RecursiveReadOnly: true,
			Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER}), ErrInvalid, "recursive_read_only"},
		{"rro on an old kernel", func(in *Input) {
			in.Host.RecursiveReadOnly = false
			in.Container.Mounts = []*runtimeapi.Mount{{ContainerPath: "/a", HostPath: "/a", Readonly: true, RecursiveReadOnly: true}}
		}, ErrRROUnsupported, "mount_setattr"},
		{"climbing volume", func(in *Input) { in.Image.Volumes = []string{"/../../etc"} }, ErrInvalid, "volume"},
		{"volume that is the root", func(in *Input) { in.Image.Volumes = []string{"/."} }, ErrInvalid, "volume"},
		{"devices not loaded", func(in *Input) { in.Container.Devices = []*runtimeapi.Device{{HostPath: "/dev/x"}} }, nil, "devices"},
		{"user namespace of a target", security(func(s *sc) { s.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: target} }), ErrInvalid, "user namespace"},
		{"no network to join", func(in *Input) { in.Namespaces.Net = "" }, nil, "network namespace"},
		{"no IPC to join", func(in *Input) { in.Namespaces.IPC = "" }, nil, "ipc namespace"},
		{"no UTS to join", func(in *Input) { in.Namespaces.UTS = "" }, nil, "uts namespace"},
		{"no shared PID namespace", security(func(s *sc) { s.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD }), ErrInvalid, "PID namespace"},
		{"no target", security(func(s *sc) { s.NamespaceOptions.Pid = target }), ErrInvalid, "PID namespace"},
		{"unknown PID mode", security(func(s *sc) { s.NamespaceOptions.Pid = node + 7 }), ErrInvalid, "PID namespace"},
		{"seccomp file without Localhost", security(func(s *sc) { s.Seccomp = profile(0, "/x") }), ErrInvalid, "localhost_ref"},
		{"seccomp Localhost without a file", security(func(s *sc) { s.Seccomp = profile(localRef, "") }), ErrInvalid, "localhost_ref"},
		{"seccomp Localhost that was not read", security(func(s *sc) { s.Seccomp = profile(localRef, "/x") }), ErrInvalid, "empty"},
		{"seccomp Localhost that filters nothing", func(in *Input) {
			in.SeccompLocalhost = []byte("{}")
			in.Container.Linux.SecurityContext.Seccomp = profile(localRef, "/x")
		}, ErrInvalid, "defaultAction"},
		{"seccomp Localhost that is no JSON", func(in *Input) {
			in.SeccompLocalhost = []byte("{")
			in.Container.Linux.SecurityContext.Seccomp = profile(localRef, "/x")
		}, ErrInvalid, "/x"},
		{"seccomp type", security(func(s *sc) { s.Seccomp = profile(9, "") }), ErrInvalid, "unknown"},
		{"seccomp on a kernel without", func(in *Input) {
			in.Host.Seccomp = false
			in.Container.Linux.SecurityContext.Seccomp = profile(0, "")
		}, ErrInvalid, "no seccomp"},
		{"AppArmor on a kernel without", security(localhost), ErrInvalid, "no AppArmor"},
		{"masked path", security(func(s *sc) { s.MaskedPaths = []string{"proc"} }), ErrInvalid, "masked"},
		{"SELinux type", func(in *Input) {
			selinuxHost(in)
			in.Container.Linux.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{Type: "a:b"}
		}, ErrInvalid, "selinux"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Container(request(tt.do))
			if err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("Container: %v, want something of %q", err, tt.text)
			}
			for _, sentinel := range []error{ErrInvalid, ErrUnsupported, ErrRROUnsupported} {
				if errors.Is(err, sentinel) != (sentinel == tt.want) {
					t.Errorf("Container: %v, want %v", err, tt.want)
				}
			}
		})
	}
}
