package spec

import (
	"errors"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func mapping(container, host, length uint32) []*runtimeapi.IDMapping {
	return []*runtimeapi.IDMapping{{ContainerId: container, HostId: host, Length: length}}
}

func podUserNamespace(m []*runtimeapi.IDMapping) *runtimeapi.UserNamespace {
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: m, Gids: m}
}

// inUserns gives the pod and the container a user namespace.
func inUserns(in *Input) {
	u := podUserNamespace(mapping(0, 65536, 65536))
	in.Pod.Linux.SecurityContext.NamespaceOptions.UsernsOptions = u
	in.Container.Linux.SecurityContext.NamespaceOptions.UsernsOptions = u
	in.Namespaces.User = "/ns/user"
}

func inHostNetwork(in *Input) {
	in.Pod.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	in.Container.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	in.Namespaces.Net, in.Namespaces.UTS, in.Pod.Hostname = "", "", ""
}

func TestUserNamespaceOptions(t *testing.T) {
	good := mapping(0, 65536, 65536)
	tests := []struct {
		name string
		u    *runtimeapi.UserNamespace
		want IDMap
		bad  string
	}{
		{"nothing said", nil, IDMap{}, ""},
		{"the node's", &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE}, IDMap{}, ""},
		{"the pod's", podUserNamespace(good), IDMap{HostID: 65536, Size: 65536}, ""},
		{"all IDs there are", podUserNamespace(mapping(0, 0, 1<<32-1)), IDMap{Size: 1<<32 - 1}, ""},
		{"the container's", &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_CONTAINER, Uids: good, Gids: good}, IDMap{}, "mode CONTAINER"},
		{"a target's", &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_TARGET}, IDMap{}, "mode TARGET"},
		{"the node's with mappings", &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE, Uids: good}, IDMap{}, "mode NODE"},
		{"no mapping", podUserNamespace(nil), IDMap{}, "0 mappings of users and 0 of groups"},
		{"no mapping of groups", &runtimeapi.UserNamespace{Uids: good}, IDMap{}, "1 mappings of users and 0 of groups"},
		{"two mappings", podUserNamespace(append(mapping(0, 1000, 10), mapping(10, 5000, 10)...)), IDMap{}, "2 mappings"},
		{"ID 0 is not mapped", podUserNamespace(mapping(1, 1000, 1000)), IDMap{}, "ID 0"},
		{"users unlike groups", &runtimeapi.UserNamespace{Uids: good, Gids: mapping(0, 1, 65536)}, IDMap{}, "not the same"},
		{"no IDs", podUserNamespace(mapping(0, 1000, 0)), IDMap{}, "not a range"},
		{"beyond the last ID", podUserNamespace(mapping(0, 1<<31, 1<<31)), IDMap{}, "not a range"},
		{"an empty mapping", podUserNamespace([]*runtimeapi.IDMapping{nil}), IDMap{}, "not a range"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := request(inUserns)
			in.Pod.Linux.SecurityContext.NamespaceOptions.UsernsOptions = tt.u
			got, err := UserNamespace(in.Pod)
			if tt.bad != "" {
				if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.bad) {
					t.Errorf("%v, want something of %q", err, tt.bad)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("%v, %v; want %v", got, err, tt.want)
			}
		})
	}
}

func TestUserNamespaceOfContainer(t *testing.T) {
	set := func(u *runtimeapi.UserNamespace) change {
		return func(in *Input) { in.Container.Linux.SecurityContext.NamespaceOptions.UsernsOptions = u }
	}
	node := &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE}
	tests := []struct {
		name    string
		changes []change
		bad     string
	}{
		{"its pod's", []change{inUserns}, ""},
		{"nothing said", []change{inUserns, set(nil)}, ""},
		{"no options at all", []change{inUserns, func(in *Input) { in.Container.Linux.SecurityContext.NamespaceOptions = nil }}, ""},
		{"both the node's", []change{set(node)}, ""},
		{"another", []change{inUserns, set(podUserNamespace(mapping(0, 1000, 65536)))}, "its pod has 0:65536:65536"},
		{"the node's in a pod with one", []change{inUserns, set(node)}, "asks for the host's"},
		{"one in a pod without", []change{set(podUserNamespace(mapping(0, 1000, 65536)))}, "its pod has the host's"},
		{"a target's", []change{inUserns, set(&runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_TARGET})}, "mode TARGET"},
		{"the node's processes", []change{inUserns, security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.NamespaceOptions.Pid = runtimeapi.NamespaceMode_NODE
		})}, "PID namespace"},
		{"the node's IPC", []change{inUserns, func(in *Input) {
			in.Pod.Linux.SecurityContext.NamespaceOptions.Ipc = runtimeapi.NamespaceMode_NODE
		}}, "IPC namespace"},
		{"a user beyond", []change{inUserns, func(in *Input) { in.Identity.UID = 65536 }}, "user 65536"},
		{"a group beyond", []change{inUserns, func(in *Input) { in.Identity.AdditionalGIDs = []uint32{0, 70000} }}, "group 70000"},
		{"no namespace to join", []change{inUserns, func(in *Input) { in.Namespaces.User = "" }}, "no path"},
		{"a namespace too many", []change{func(in *Input) { in.Namespaces.User = "/ns/user" }}, "a path was given"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Container(request(tt.changes...))
			if tt.bad == "" && err != nil || tt.bad != "" && (err == nil || !strings.Contains(err.Error(), tt.bad)) {
				t.Errorf("%v, want something of %q", err, tt.bad)
			}
		})
	}
}

func find(t *testing.T, s *specs.Spec, dest string) specs.Mount {
	t.Helper()
	i := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == dest })
	if i < 0 {
		t.Fatalf("no mount at %s", dest)
	}
	return s.Mounts[i]
}

func TestIDMappedMounts(t *testing.T) {
	good := mapping(0, 65536, 65536)
	tests := []struct {
		name       string
		uids, gids []*runtimeapi.IDMapping
		changes    []change
		idmap      bool
		bad        string
	}{
		{"the pod's", good, good, []change{inUserns}, true, ""},
		{"none", nil, nil, []change{inUserns}, false, ""},
		{"users alone", good, nil, []change{inUserns}, false, "0 of groups"},
		{"groups alone", nil, good, []change{inUserns}, false, "0 mappings of users"},
		{"another", mapping(0, 1, 65536), mapping(0, 1, 65536), []change{inUserns}, false, "is not the pod's, which is 0:65536:65536"},
		{"two", append(mapping(0, 1, 1), good...), good, []change{inUserns}, false, "2 mappings of users"},
		{"in a pod without", good, good, nil, false, "which is the host's"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := &runtimeapi.Mount{ContainerPath: "/data", HostPath: "/h", UidMappings: tt.uids, GidMappings: tt.gids}
			s, err := Container(request(append(slices.Clone(tt.changes), mounts(m))...))
			if tt.bad != "" {
				if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.bad) || !strings.Contains(err.Error(), "/data") {
					t.Errorf("%v, want something of %q", err, tt.bad)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := slices.Contains(find(t, s, "/data").Options, "idmap"); got != tt.idmap {
				t.Errorf("idmapped: %t", got)
			}
		})
	}
}

// In a user namespace libcontainer binds a device from its path in the container.
func TestRenamedDeviceInUserNamespace(t *testing.T) {
	device := func(in *Input) {
		in.Container.Devices = []*runtimeapi.Device{
			{HostPath: "/dev/null", ContainerPath: "/etc/shadow"},
			{HostPath: "/dev/bus", ContainerPath: "/dev/usb"},
			{HostPath: "/dev/fuse"},
		}
		in.Devices = []specs.LinuxDevice{{Path: "/etc/shadow", Type: "c"}, {Path: "/dev/usb/001", Type: "c"}, {Path: "/dev/fuse", Type: "c"}}
		in.DeviceRules = []specs.LinuxDeviceCgroup{}
	}
	s := mustContainer(t, inUserns, device)
	if len(s.Linux.Devices) != 1 || s.Linux.Devices[0].Path != "/dev/fuse" {
		t.Errorf("devices: %+v", s.Linux.Devices)
	}
	for dest, source := range map[string]string{"/etc/shadow": "/dev/null", "/dev/usb/001": "/dev/bus/001"} {
		if m := find(t, s, dest); m.Source != source || m.Type != "bind" || slices.Contains(m.Options, "nodev") {
			t.Errorf("%s: %+v", dest, m)
		}
	}
	if s := mustContainer(t, device); len(s.Linux.Devices) != 3 {
		t.Errorf("without a user namespace: %+v", s.Linux.Devices)
	}
}
