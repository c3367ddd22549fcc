package spec

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestOwnDevices(t *testing.T) {
	id := func(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }
	for _, tt := range []struct {
		name     string
		sc       *runtimeapi.LinuxContainerSecurityContext
		uid, gid uint32
		named    bool
	}{
		{"neither", &runtimeapi.LinuxContainerSecurityContext{}, 5, 44, false},
		{"no context", nil, 5, 44, false},
		{"both", &runtimeapi.LinuxContainerSecurityContext{RunAsUser: id(1000), RunAsGroup: id(2000)}, 1000, 2000, true},
		{"the user", &runtimeapi.LinuxContainerSecurityContext{RunAsUser: id(1000)}, 1000, 44, true},
		{"the group", &runtimeapi.LinuxContainerSecurityContext{RunAsGroup: id(2000)}, 5, 2000, true},
		{"root", &runtimeapi.LinuxContainerSecurityContext{RunAsUser: id(0), RunAsGroup: id(0)}, 0, 0, true},
		{"a name alone", &runtimeapi.LinuxContainerSecurityContext{RunAsUsername: "www-data"}, 5, 44, false},
	} {
		nodes := []specs.LinuxDevice{{Path: "/dev/a", UID: new(uint32(5)), GID: new(uint32(44))}, {Path: "/dev/b", UID: new(uint32(5)), GID: new(uint32(44))}}
		if named := OwnDevices(nodes, tt.sc); named != tt.named {
			t.Errorf("%s: %t", tt.name, named)
		}
		for _, n := range nodes {
			if *n.UID != tt.uid || *n.GID != tt.gid {
				t.Errorf("%s: %s belongs to %d:%d, want %d:%d", tt.name, n.Path, *n.UID, *n.GID, tt.uid, tt.gid)
			}
		}
	}
}
