package spec

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// mountAt finds the one mount at dest.
func mountAt(t *testing.T, s *specs.Spec, dest string) (found specs.Mount, ok bool) {
	t.Helper()
	for _, m := range s.Mounts {
		if m.Destination == dest {
			if ok {
				t.Errorf("two mounts at %s", dest)
			}
			found, ok = m, true
		}
	}
	return found, ok
}

func TestMountPropagation(t *testing.T) {
	const private, slave, shared = runtimeapi.MountPropagation_PROPAGATION_PRIVATE,
		runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	for _, tt := range []struct {
		asked []runtimeapi.MountPropagation
		root  string
	}{
		{nil, ""}, {[]runtimeapi.MountPropagation{private}, ""},
		{[]runtimeapi.MountPropagation{private, slave}, "rslave"},
		{[]runtimeapi.MountPropagation{slave, shared}, "rshared"},
		{[]runtimeapi.MountPropagation{shared, slave, private}, "rshared"},
	} {
		var asked []*runtimeapi.Mount
		for i, p := range tt.asked {
			asked = append(asked, &runtimeapi.Mount{ContainerPath: "/m" + string(rune('0'+i)), HostPath: "/h", Propagation: p})
		}
		s := mustContainer(t, mounts(asked...))
		if s.Linux.RootfsPropagation != tt.root {
			t.Errorf("%v: root propagation %q, want %q", tt.asked, s.Linux.RootfsPropagation, tt.root)
		}
		for i, p := range tt.asked {
			m, _ := mountAt(t, s, asked[i].ContainerPath)
			want := map[runtimeapi.MountPropagation]string{private: "rprivate", slave: "rslave", shared: "rshared"}[p]
			if !slices.Equal(m.Options, []string{"rbind", want, "rw"}) {
				t.Errorf("%v: options %v", p, m.Options)
			}
		}
	}
}

// TestImageVolumeMount: read-only whatever is asked for, executable, with the options
// kubelet adds.
func TestImageVolumeMount(t *testing.T) {
	s := mustContainer(t, mounts(
		&runtimeapi.Mount{ContainerPath: "/h", HostPath: "/host"},
		&runtimeapi.Mount{ContainerPath: "/a", Image: &runtimeapi.ImageSpec{Image: "x"}, MountOptions: []string{"noexec"}},
		&runtimeapi.Mount{ContainerPath: "/b", Image: &runtimeapi.ImageSpec{Image: "x"}, ImageSubPath: "d", Readonly: true, RecursiveReadOnly: true},
	), func(in *Input) { in.ImageVolumes = map[int]string{1: "/volumes/1", 2: "/volumes/2"} })
	for at, want := range map[string]specs.Mount{
		"/a": {Source: "/volumes/1", Options: []string{"rbind", "rprivate", "ro", "noexec"}},
		"/b": {Source: "/volumes/2", Options: []string{"rbind", "rprivate", "ro", "rro"}},
	} {
		if m, _ := mountAt(t, s, at); m.Type != "bind" || m.Source != want.Source || !slices.Equal(m.Options, want.Options) {
			t.Errorf("%s: %+v", at, m)
		}
	}
}

// TestMountsReplaceDefaults: where kubelet mounts, nothing of ours is.
func TestMountsReplaceDefaults(t *testing.T) {
	for _, tt := range []struct {
		at   string
		gone []string
	}{
		{"/dev/shm", nil}, {"/etc/resolv.conf", nil}, {"/etc/hostname", nil}, {"/sys/fs/cgroup", nil}, {"/dev/mqueue/", nil},
		{"/sys", []string{"/sys/fs/cgroup"}}, {"/dev", []string{"/dev/shm", "/dev/pts", "/dev/mqueue"}}, {"/proc", nil},
	} {
		s := mustContainer(t, mounts(&runtimeapi.Mount{ContainerPath: tt.at, HostPath: "/kubelet"}))
		clean, _ := VolumePath(tt.at)
		if m, _ := mountAt(t, s, clean); m.Source != "/kubelet" {
			t.Errorf("%s: %+v", tt.at, m)
		}
		for _, g := range tt.gone {
			if m, ok := mountAt(t, s, g); ok {
				t.Errorf("%s: still %+v", tt.at, m)
			}
		}
		if want := 9 - 1 - len(tt.gone) + 1; len(s.Mounts) != want {
			t.Errorf("%s: %d mounts, want %d", tt.at, len(s.Mounts), want)
		}
	}
}

func TestMountOrder(t *testing.T) {
	m := func(at string) *runtimeapi.Mount { return &runtimeapi.Mount{ContainerPath: at, HostPath: "/h"} }
	s := mustContainer(t, mounts(m("/a/b/c"), m("/a/b"), m("/dev/shm/x"), m("/a"), m("/etc"), m("/aa/")))
	for i, outer := range s.Mounts {
		for _, earlier := range s.Mounts[:i] {
			if below(earlier.Destination, outer.Destination) {
				t.Errorf("%s is mounted before %s", earlier.Destination, outer.Destination)
			}
		}
	}
}

func TestVolumes(t *testing.T) {
	volumes := func(paths ...string) change {
		return func(in *Input) {
			in.Image.Volumes = paths
			for range paths {
				in.Volumes = append(in.Volumes, "/volume")
			}
		}
	}
	for _, tt := range []struct {
		name string
		do   []change
		want string // destination, "" = none
	}{
		{"plain", []change{volumes("/data")}, "/data"},
		{"to clean", []change{volumes("data//x/./")}, "/data/x"},
		{"twice", []change{volumes("/data", "/data/")}, "/data"},
		{"without a folder", []change{volumes("/data"), func(in *Input) { in.Volumes = []string{""} }}, ""},
		{"no folders at all", []change{volumes("/data"), func(in *Input) { in.Volumes = nil }}, ""},
		{"kubelet's place", []change{volumes("/data"), mounts(&runtimeapi.Mount{ContainerPath: "/data/", HostPath: "/h"})}, ""},
		{"below kubelet's", []change{volumes("/data/x"), mounts(&runtimeapi.Mount{ContainerPath: "/data", HostPath: "/h"})}, ""},
		{"above kubelet's", []change{volumes("/data"), mounts(&runtimeapi.Mount{ContainerPath: "/data/x", HostPath: "/h"})}, "/data"},
		{"proc", []change{volumes("/proc")}, ""},
		{"below sys", []change{volumes("/sys/kernel")}, ""},
		{"below dev", []change{volumes("/dev/new")}, ""},
		{"the pod's file", []change{volumes("/etc/resolv.conf")}, ""},
		{"above the pod's file", []change{volumes("/etc")}, "/etc"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var at []string
			for _, m := range mustContainer(t, tt.do...).Mounts {
				if m.Source == "/volume" {
					at = append(at, m.Destination)
				}
			}
			if len(at) > 1 || (len(at) == 1) != (tt.want != "") || len(at) == 1 && at[0] != tt.want {
				t.Errorf("volumes at %v, want %q", at, tt.want)
			}
		})
	}
	for _, bad := range []string{"", "/", ".", "..", "/..", "/../../etc", "/a/../../b", "a/..", "/a\x00"} {
		if p, err := VolumePath(bad); err == nil {
			t.Errorf("VolumePath(%q) = %q", bad, p)
		}
	}
}

func TestSharedMemory(t *testing.T) {
	none := func(in *Input) { in.Files = Files{} }
	for _, tt := range []struct {
		do           []change
		kind, source string
	}{
		{nil, "bind", "/pods/p1/shm"},
		{[]change{none}, "tmpfs", "shm"},
		{[]change{hostEverything}, "bind", "/dev/shm"},
	} {
		if m, _ := mountAt(t, mustContainer(t, tt.do...), "/dev/shm"); m.Type != tt.kind || m.Source != tt.source {
			t.Errorf("/dev/shm is %+v, want %s of %s", m, tt.kind, tt.source)
		}
	}
}
