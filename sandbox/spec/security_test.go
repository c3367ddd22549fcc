package spec

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestCapabilities(t *testing.T) {
	all := capabilityNames()
	without := func(from []string, names ...string) []string {
		return slices.DeleteFunc(slices.Clone(from), func(n string) bool { return slices.Contains(names, n) })
	}
	defaults := inKernelOrder(defaultCapabilities())
	for _, tt := range []struct {
		name               string
		add, drop, ambient []string
		want, wantAmbient  []string
	}{
		{name: "defaults", want: defaults},
		{name: "add", add: []string{"net_admin", "CAP_SYS_ADMIN", "Cap_Bpf"}, want: inKernelOrder(append(defaultCapabilities(), "CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_BPF"))},
		{name: "drop", drop: []string{"NET_RAW", "CAP_MKNOD"}, want: without(defaults, "CAP_NET_RAW", "CAP_MKNOD")},
		{name: "drop all", drop: []string{"ALL"}, want: []string{}},
		{name: "drop all, add one", add: []string{"NET_BIND_SERVICE"}, drop: []string{"ALL"}, want: []string{"CAP_NET_BIND_SERVICE"}},
		{name: "add all", add: []string{"ALL"}, want: all},
		{name: "add all, in lower case", add: []string{"all"}, want: all},
		{name: "add all, drop one", add: []string{"ALL"}, drop: []string{"SYS_ADMIN"}, want: without(all, "CAP_SYS_ADMIN")},
		{name: "add all, drop all", add: []string{"ALL", "CHOWN"}, drop: []string{"ALL"}, want: []string{"CAP_CHOWN"}},
		{name: "add and drop the same", add: []string{"SYS_TIME"}, drop: []string{"SYS_TIME"}, want: defaults},
		{name: "ambient", ambient: []string{"NET_ADMIN"}, want: inKernelOrder(append(defaultCapabilities(), "CAP_NET_ADMIN")), wantAmbient: []string{"CAP_NET_ADMIN"}},
		{name: "ambient, all else dropped", drop: []string{"ALL"}, ambient: []string{"NET_ADMIN"}, want: []string{"CAP_NET_ADMIN"}, wantAmbient: []string{"CAP_NET_ADMIN"}},
		{name: "ambient and dropped", drop: []string{"NET_ADMIN"}, ambient: []string{"NET_ADMIN"}, want: defaults},
		{name: "all ambient", ambient: []string{"ALL"}, want: all, wantAmbient: all},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := mustContainer(t, security(func(sc *runtimeapi.LinuxContainerSecurityContext) {
				sc.Capabilities = &runtimeapi.Capability{AddCapabilities: tt.add, DropCapabilities: tt.drop, AddAmbientCapabilities: tt.ambient}
			}))
			c := s.Process.Capabilities
			for set, got := range map[string][]string{"bounding": c.Bounding, "effective": c.Effective, "permitted": c.Permitted} {
				if !slices.Equal(got, tt.want) {
					t.Errorf("%s: %v, want %v", set, got, tt.want)
				}
			}
			for set, got := range map[string][]string{"ambient": c.Ambient, "inheritable": c.Inheritable} {
				if got == nil || !slices.Equal(got, tt.wantAmbient) {
					t.Errorf("%s: %v, want %v", set, got, tt.wantAmbient)
				}
			}
		})
	}
}

func TestClamped(t *testing.T) {
	in := request(clampedHost, asPrivileged, func(in *Input) { in.Host.Swap, in.Host.HugeTLB = false, false }, resources(func(r *runtimeapi.LinuxContainerResources) {
		r.HugepageLimits = []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 1 << 21}}
		r.MemoryLimitInBytes, r.MemorySwapLimitInBytes = 1, 2
	}))
	s, err := Container(in)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Linux.Resources.HugepageLimits) != 0 || s.Linux.Resources.Memory.Swap != nil || *s.Process.OOMScoreAdj != -500 ||
		slices.Contains(s.Process.Capabilities.Bounding, "CAP_SYS_RESOURCE") || len(s.Process.Capabilities.Bounding) != 40 {
		t.Errorf("resources %+v, process %+v", s.Linux.Resources, s.Process)
	}
	got := strings.Join(Clamped(in), "\n")
	for _, want := range []string{"CAP_SYS_RESOURCE", "-999 becomes -500", "hugetlb", "swap"} {
		if !strings.Contains(got, want) {
			t.Errorf("Clamped does not speak of %s: %s", want, got)
		}
	}
	if got := Clamped(request(withEverything)); len(got) != 0 {
		t.Errorf("a host that can do it all: %v", got)
	}
	small := request(func(in *Input) { in.Host.Swap = true }, resources(func(r *runtimeapi.LinuxContainerResources) { r.MemorySwapLimitInBytes = 2 }))
	if got := Clamped(small); len(got) != 0 {
		t.Errorf("a host with swap: %v", got)
	}
	unloaded := func(in *Input) {
		in.Host.AppArmor = true
		in.Host.AppArmorLack = errors.New("no parser")
	}
	if got := Clamped(request(unloaded)); len(got) != 1 || !strings.Contains(got[0], "apparmor: not confined: berth-default is not loaded") {
		t.Errorf("no AppArmor profile: %v", got)
	}
}

func TestSeccomp(t *testing.T) {
	type kind = runtimeapi.SecurityProfile_ProfileType
	set := func(k kind, ref string) change {
		return security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: k, LocalhostRef: ref}
		})
	}
	capability := func(name string) change {
		return security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{name}}
		})
	}
	runtimeDefault := set(runtimeapi.SecurityProfile_RuntimeDefault, "")
	own := set(runtimeapi.SecurityProfile_Localhost, "/profile.json")
	profile := func(text string) change { return func(in *Input) { in.SeccompLocalhost = []byte(text) } }

	for name, changes := range map[string][]change{
		"none":                     nil,
		"unconfined":               {set(runtimeapi.SecurityProfile_Unconfined, "")},
		"privileged":               {asPrivileged, runtimeDefault},
		"privileged and localhost": {asPrivileged, own, profile(`{"defaultAction":"SCMP_ACT_ERRNO"}`)},
		"none on an old kernel":    {func(in *Input) { in.Host.Seccomp = false }},
	} {
		if s := mustContainer(t, changes...); s.Linux.Seccomp != nil {
			t.Errorf("%s: a filter", name)
		}
	}

	plain := mustContainer(t, runtimeDefault).Linux.Seccomp
	if plain.DefaultAction != specs.ActErrno || !allows(plain, "read") || allows(plain, "sethostname") {
		t.Errorf("default profile: default action %s, read %t, sethostname %t", plain.DefaultAction, allows(plain, "read"), allows(plain, "sethostname"))
	}
	admin := mustContainer(t, runtimeDefault, capability("SYS_ADMIN")).Linux.Seccomp
	if !allows(admin, "sethostname") {
		t.Error("SYS_ADMIN does not open sethostname")
	}
	withoutIt := mustContainer(t, runtimeDefault, capability("SYS_ADMIN"), func(in *Input) { in.Host.Capabilities = defaultCapabilities() })
	if allows(withoutIt.Linux.Seccomp, "sethostname") {
		t.Error("SYS_ADMIN that is not given opens sethostname")
	}

	docker := mustContainer(t, own, profile(`{"defaultAction":"SCMP_ACT_ALLOW","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],
		"syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO","errnoRet":13,"excludes":{"caps":["CAP_SYS_ADMIN"]}}]}`)).Linux.Seccomp
	if docker.DefaultAction != specs.ActAllow || len(docker.Syscalls) != 1 || docker.Syscalls[0].Names[0] != "chmod" {
		t.Errorf("Docker's format: %+v", docker)
	}
	oci := mustContainer(t, own, profile(`{"defaultAction":"SCMP_ACT_LOG","architectures":["SCMP_ARCH_X86_64"],"syscalls":[{"names":["a","b"],"action":"SCMP_ACT_KILL"}]}`)).Linux.Seccomp
	if oci.DefaultAction != specs.ActLog || len(oci.Architectures) != 1 || len(oci.Syscalls[0].Names) != 2 {
		t.Errorf("OCI's format: %+v", oci)
	}
}

// allows tells whether a filter lets a system call through, whatever its arguments.
func allows(f *specs.LinuxSeccomp, call string) bool {
	return slices.ContainsFunc(f.Syscalls, func(s specs.LinuxSyscall) bool {
		return s.Action == specs.ActAllow && len(s.Args) == 0 && slices.Contains(s.Names, call)
	})
}

// TestAppArmorProfiles: a profile by name must be loaded, where the kernel tells which
// are.
func TestAppArmorProfiles(t *testing.T) {
	list := filepath.Join(t.TempDir(), "profiles")
	text := "/usr/sbin/cupsd (enforce)\nmine (complain)\na name (with) blanks (enforce)\nno mode\n"
	if err := os.WriteFile(list, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	loaded := loadedProfiles(list)
	if !slices.Equal(loaded, []string{"/usr/sbin/cupsd", "mine", "a name (with) blanks"}) {
		t.Errorf("loaded: %q", loaded)
	}
	untold := loadedProfiles(list + "-none")
	if untold != nil {
		t.Errorf("no list: %q", untold)
	}
	for _, tt := range []struct {
		name, want string
		ref        string
		profiles   []string
		err        error
	}{
		{"loaded", "mine", "mine", loaded, nil},
		{"with kubelet's old prefix", "mine", "localhost/mine", loaded, nil},
		{"not loaded", "", "other", loaded, ErrNoProfile},
		{"part of one that is", "", "min", loaded, ErrNoProfile},
		{"nothing is loaded", "", "mine", []string{}, ErrNoProfile},
		{"the kernel does not tell", "mine", "mine", untold, nil},
		{"not a name", "", "localhost/", loaded, ErrInvalid},
	} {
		s, err := Container(request(security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: tt.ref}
		}), func(in *Input) { in.Host.AppArmor, in.Host.AppArmorProfiles = true, tt.profiles }))
		if !errors.Is(err, tt.err) || err == nil && s.Process.ApparmorProfile != tt.want {
			t.Errorf("%s: %+v, %v", tt.name, s, err)
		}
	}
}

// TestPrivilegedIsUnconfined: neither AppArmor nor SELinux confines it (CRI).
func TestPrivilegedIsUnconfined(t *testing.T) {
	s := mustContainer(t, asPrivileged, apparmor, selinuxHost)
	if s.Process.ApparmorProfile != "" || s.Process.SelinuxLabel != "system_u:system_r:spc_t:s0" {
		t.Errorf("profile %q, label %q", s.Process.ApparmorProfile, s.Process.SelinuxLabel)
	}
	if s.Linux.MountLabel == "" {
		t.Error("its files have no label")
	}
	if s := mustContainer(t, apparmor, selinuxHost); s.Process.ApparmorProfile != AppArmorProfile || s.Process.SelinuxLabel == "" {
		t.Errorf("not privileged: profile %q, label %q", s.Process.ApparmorProfile, s.Process.SelinuxLabel)
	}
}

// TestLevels: which labels a container has, by who says what.
func TestLevels(t *testing.T) {
	type options = runtimeapi.SELinuxOption
	container := func(o *options) change {
		return security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.SelinuxOptions = o })
	}
	pod := func(o *options) change {
		return func(in *Input) { in.Pod.Linux.SecurityContext.SelinuxOptions = o }
	}
	shares := func(edit func(*runtimeapi.NamespaceOption)) change {
		return security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
			edit(s.NamespaceOptions)
		})
	}
	node := runtimeapi.NamespaceMode_NODE
	hostPID := shares(func(o *runtimeapi.NamespaceOption) { o.Pid = node })
	hostIPC := shares(func(o *runtimeapi.NamespaceOption) { o.Ipc = node })
	for name, c := range map[string]struct {
		changes        []change
		process, mount string
	}{
		"the pod's":          {nil, "system_u:system_r:container_t:s0:c7,c9", "system_u:object_r:container_file_t:s0:c7,c9"},
		"level":              {[]change{container(&options{Level: "s0"})}, "system_u:system_r:container_t:s0", "system_u:object_r:container_file_t:s0"},
		"type":               {[]change{container(&options{Type: "a_t"})}, "system_u:system_r:a_t:s0:c7,c9", "system_u:object_r:container_file_t:s0:c7,c9"},
		"all":                {[]change{container(&options{User: "a_u", Role: "a_r", Type: "a_t", Level: "s0-s0:c0.c1023"})}, "a_u:a_r:a_t:s0-s0:c0.c1023", "a_u:object_r:container_file_t:s0-s0:c0.c1023"},
		"of the pod":         {[]change{pod(&options{Level: "s0:c1"})}, "system_u:system_r:container_t:s0:c1", "system_u:object_r:container_file_t:s0:c1"},
		"the container's":    {[]change{pod(&options{Level: "s0:c1"}), container(&options{Level: "s0:c2"})}, "system_u:system_r:container_t:s0:c2", "system_u:object_r:container_file_t:s0:c2"},
		"privileged":         {[]change{asPrivileged}, "system_u:system_r:spc_t:s0", "system_u:object_r:container_file_t:s0:c7,c9"},
		"privileged, typed":  {[]change{asPrivileged, container(&options{Type: "a_t"})}, "system_u:system_r:spc_t:s0", "system_u:object_r:container_file_t:s0:c7,c9"},
		"node's PIDs":        {[]change{hostPID}, "system_u:system_r:spc_t:s0", "system_u:object_r:container_file_t:s0:c7,c9"},
		"node's IPC":         {[]change{hostIPC}, "system_u:system_r:spc_t:s0", "system_u:object_r:container_file_t:s0:c7,c9"},
		"node's PIDs, typed": {[]change{hostPID, container(&options{Type: "a_t"})}, "system_u:system_r:a_t:s0:c7,c9", "system_u:object_r:container_file_t:s0:c7,c9"},
		"node's network":     {[]change{inHostNetwork}, "system_u:system_r:container_t:s0:c7,c9", "system_u:object_r:container_file_t:s0:c7,c9"},
	} {
		s := mustContainer(t, append([]change{selinuxHost}, c.changes...)...)
		if s.Process.SelinuxLabel != c.process || s.Linux.MountLabel != c.mount {
			t.Errorf("%s: process %s, mount %s", name, s.Process.SelinuxLabel, s.Linux.MountLabel)
		}
	}
	if s := mustContainer(t, container(&options{Level: "s0:c1"})); s.Process.SelinuxLabel != "" || s.Linux.MountLabel != "" {
		t.Errorf("without SELinux: process %s, mount %s", s.Process.SelinuxLabel, s.Linux.MountLabel)
	}
	hasQueues := func(s *specs.Spec) bool {
		return slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "mqueue" })
	}
	if hasQueues(mustContainer(t, inUserns, selinuxHost)) || !hasQueues(mustContainer(t, selinuxHost)) || !hasQueues(mustContainer(t, inUserns)) {
		t.Error("/dev/mqueue: a user namespace's cannot be labelled, all others can")
	}
	for _, bad := range []string{"s0,c4,c5", "c1", "s0:", "s0:c1,", "s0-", "s0:c1\",x=\"", "s0 ", "x"} {
		if _, err := Container(request(selinuxHost, container(&options{Level: bad}))); !errors.Is(err, ErrInvalid) {
			t.Errorf("level %q: %v", bad, err)
		}
	}
}

// A misspelt name in a list to drop would leave the container what it must not have.
func TestUnknownCapabilities(t *testing.T) {
	for _, c := range []*runtimeapi.Capability{
		{AddCapabilities: []string{"WINGS"}}, {DropCapabilities: []string{"NET_RWA"}}, {AddAmbientCapabilities: []string{""}},
	} {
		if err := checkCapabilities(c); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: %v, want ErrInvalid", c, err)
		}
	}
	if err := checkCapabilities(&runtimeapi.Capability{AddCapabilities: []string{"all", "cap_net_raw"}, DropCapabilities: []string{"CAP_KILL"}}); err != nil {
		t.Error(err)
	}
}

// TestAppArmorDefault: the default profile for whoever names none, and an error for
// who asks for it where it is not loaded. The deprecated field says the same as the newer
// one, and nothing beside it.
func TestAppArmorDefault(t *testing.T) {
	profile := func(kind runtimeapi.SecurityProfile_ProfileType) *runtimeapi.SecurityProfile {
		return &runtimeapi.SecurityProfile{ProfileType: kind}
	}
	named := &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "mine"}
	none := func(in *Input) { in.Host.AppArmor, in.Host.AppArmorProfiles = true, []string{"mine"} }
	lack := func(in *Input) { none(in); in.Host.AppArmorLack = fs.ErrPermission }
	off := func(*Input) {}
	for _, tt := range []struct {
		name string
		new  *runtimeapi.SecurityProfile
		old  string
		host change
		want string
		err  error
	}{
		{"nothing said", nil, "", apparmor, AppArmorProfile, nil},
		{"nothing said, not loaded", nil, "", lack, "", nil},
		{"nothing said, off", nil, "", off, "", nil},
		{"default", profile(0), "", apparmor, AppArmorProfile, nil},
		{"default, not loaded", profile(0), "", none, "", ErrNoProfile},
		{"default, cannot be loaded", profile(0), "", lack, "", fs.ErrPermission},
		{"default, off", profile(0), "", off, "", nil},
		{"unconfined", profile(runtimeapi.SecurityProfile_Unconfined), "", apparmor, "", nil},
		{"old default", nil, "runtime/default", apparmor, AppArmorProfile, nil},
		{"old default, not loaded", nil, "runtime/default", none, "", ErrNoProfile},
		{"old unconfined", nil, "unconfined", apparmor, "", nil},
		{"old name", nil, "localhost/mine", apparmor, "mine", nil},
		{"old name, not loaded", nil, "localhost/other", apparmor, "", ErrNoProfile},
		{"old name, off", nil, "localhost/mine", off, "", ErrInvalid},
		{"old, empty name", nil, "localhost/", apparmor, "", ErrInvalid},
		{"old, no prefix", nil, "mine", apparmor, "", ErrInvalid},
		{"old beside new", named, "localhost/other", apparmor, "mine", nil},
		{"old nonsense beside new", named, "?", apparmor, "mine", nil},
	} {
		in := request(tt.host, security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.Apparmor, s.ApparmorProfile = tt.new, tt.old }))
		s, err := Container(in)
		if !errors.Is(err, tt.err) || err == nil && s.Process.ApparmorProfile != tt.want {
			t.Errorf("%s: %+v, %v", tt.name, s, err)
		}
		if gets := GetsAppArmorDefault(in.Container.GetLinux().GetSecurityContext()); tt.want == AppArmorProfile && !gets || tt.want == "mine" && gets {
			t.Errorf("%s: gets the default: %t", tt.name, gets)
		}
	}
}
