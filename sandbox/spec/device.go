package spec

import (
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// addDevices gives the container its devices and says which it may use.
//
// The rules begin with "none". libcontainer appends those every container needs
// (null, zero, full, random, urandom, tty, ptmx, pts, mknod of anything), and so do
// the nodes. A privileged container has the host's nodes and may use them all (CRI).
func addDevices(s *specs.Spec, in Input) {
	if !privileged(in) {
		s.Linux.Devices = slices.Clone(in.Devices)
		s.Linux.Resources.Devices = append(noDevices(), in.DeviceRules...)
		return
	}
	s.Linux.Devices = slices.Clone(in.Devices)
	for _, d := range in.Host.Devices {
		if !slices.ContainsFunc(in.Devices, func(own specs.LinuxDevice) bool { return own.Path == d.Path }) {
			s.Linux.Devices = append(s.Linux.Devices, d)
		}
	}
	s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "rwm"}}
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
