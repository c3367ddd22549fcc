package spec

import (
	"cmp"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// addDevices gives the container its devices and says which it may use.
//
// The rules begin with "none". libcontainer appends those every container needs
// (null, zero, full, random, urandom, tty, ptmx, pts, mknod of anything), and so do
// the nodes. A privileged container has the host's nodes and may use them all (CRI).
func addDevices(s *specs.Spec, in Input) {
	s.Linux.Devices = slices.Clone(in.Devices)
	if inUserNamespace(in) {
		bindRenamed(s, in)
	}
	if !privileged(in) {
		s.Linux.Resources.Devices = append(noDevices(), in.DeviceRules...)
		return
	}
	for _, d := range in.Host.Devices {
		if !slices.ContainsFunc(in.Devices, func(own specs.LinuxDevice) bool { return own.Path == d.Path }) {
			s.Linux.Devices = append(s.Linux.Devices, d)
		}
	}
	s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "rwm"}}
}

// bindRenamed mounts the devices that have another path in the container. In a user
// namespace nobody makes device nodes, and the runtime binds what the host has at the
// path in the container: that must be the device, or the node made for the container.
func bindRenamed(s *specs.Spec, in Input) {
	s.Linux.Devices = slices.DeleteFunc(s.Linux.Devices, func(d specs.LinuxDevice) bool {
		source := cmp.Or(in.DeviceNodes[d.Path], deviceSource(in.Container.GetDevices(), d.Path))
		if source == "" || source == d.Path {
			return false
		}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: d.Path, Type: "bind", Source: source,
			Options: []string{"bind", "rprivate", "nosuid", "noexec", "rw"}})
		return true
	})
}

// deviceSource is the host's path of the device that is at dest in the container, ""
// when kubelet asked for none there. A folder stands for the devices in it.
func deviceSource(devices []*runtimeapi.Device, dest string) string {
	for _, d := range devices {
		host := path.Clean(d.GetHostPath())
		at := path.Clean(cmp.Or(d.GetContainerPath(), d.GetHostPath()))
		if rest, ok := strings.CutPrefix(dest, at); ok && (rest == "" || rest[0] == '/') {
			return host + rest
		}
	}
	return ""
}

// OwnDevices gives nodes to the user and the group that the security context names, as
// a container without root has no other way to open them (Kubernetes: "Non-root
// containers and devices"). Who is not named stays as on the host. The IDs are those
// inside the container, and were checked (ResolveIdentity). It tells whether it named
// either.
func OwnDevices(nodes []specs.LinuxDevice, sc *runtimeapi.LinuxContainerSecurityContext) bool {
	user, group := sc.GetRunAsUser(), sc.GetRunAsGroup()
	for i := range nodes {
		if user != nil {
			nodes[i].UID = new(uint32(user.GetValue()))
		}
		if group != nil {
			nodes[i].GID = new(uint32(group.GetValue()))
		}
	}
	return user != nil || group != nil
}

func noDevices() []specs.LinuxDeviceCgroup {
	return []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
}

// devicePermissions checks what the container may do with a device: some of r, w
// and m, all of them when nothing is said.
func devicePermissions(p string) (string, error) {
	if p == "" {
		return "rwm", nil
	}
	if len(p) > 3 || strings.Trim(p, "rwm") != "" {
		return "", invalid("device permissions %q: not of r, w, m", p)
	}
	return p, nil
}
