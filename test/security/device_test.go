package security

import (
	"os"
	"path/filepath"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fuse is a device that the host keeps to root.
const fuse = "/dev/fuse"

func device(host, at string) change {
	return change{container: func(c *runtimeapi.ContainerConfig) {
		c.Devices = append(c.Devices, &runtimeapi.Device{HostPath: host, ContainerPath: at, Permissions: "rw"})
	}}
}

// TestDeviceOwnership: who owns the device nodes of a container, and can open them, by
// the setting of device_ownership_from_security_context, also in a user namespace.
func TestDeviceOwnership(t *testing.T) {
	info, err := os.Stat(fuse)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Skipf("%s is not there, or everybody's: %v, %v", fuse, info, err)
	}
	user := with(func(c *securityContext) { c.RunAsUser = &runtimeapi.Int64Value{Value: 1000} })
	both := with(func(c *securityContext) {
		c.RunAsUser, c.RunAsGroup = &runtimeapi.Int64Value{Value: 1000}, &runtimeapi.Int64Value{Value: 2000}
	})
	const look = "stat -c '%u:%g %t:%T' $D; (true 3<> $D) 2>/dev/null && echo opened || echo refused"
	for _, tt := range []struct {
		name    string
		conf    string
		changes []change
		want    string
	}{
		{"off", "", []change{both}, "0:0 a:e5 refused"},
		{"off, in a user namespace", "", []change{inUserns, both}, "65534:65534 a:e5 refused"},
		{"on", on, []change{both}, "1000:2000 a:e5 opened"},
		{"on, a user alone", on, []change{user}, "1000:0 a:e5 opened"},
		{"on, nobody named", on, nil, "0:0 a:e5 opened"},
		{"on, in a user namespace", on, []change{inUserns, both}, "1000:2000 a:e5 opened"},
		{"on, in a user namespace, a user alone", on, []change{inUserns, user}, "1000:65534 a:e5 opened"},
		{"on, in a user namespace, nobody named", on, []change{inUserns}, "65534:65534 a:e5 refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := openWith(t, tt.conf)
			podID, pod := s.pod(t, tt.changes...)
			id := s.container(t, podID, pod, append(tt.changes, device(fuse, "/dev/mine"), device(fuse, ""))...)
			for _, at := range []string{"/dev/mine", fuse} {
				s.says(t, id, "D="+at+"; "+look, tt.want)
			}
			if after, err := os.Stat(fuse); err != nil || !os.SameFile(info, after) || after.Mode() != info.Mode() {
				t.Errorf("the host's: %v, %v", after, err)
			}
			if _, err := s.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
				t.Fatal(err)
			}
			if left, err := filepath.Glob(filepath.Join(s.node.Root, "pods", "*", "devices", "*")); err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

const on = "[devices]\ndevice_ownership_from_security_context = true\n"
