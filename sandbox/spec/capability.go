package spec

import (
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// capabilityNames are the kernel's capabilities by number (capability.h, to 6.18).
func capabilityNames() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
		"CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
		"CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
		"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
		"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
		"CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
		"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
		"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
	}
}

// defaultCapabilities are the 14 that Docker and containerd give, and that images
// are made for.
func defaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SYS_CHROOT", "CAP_MKNOD",
		"CAP_AUDIT_WRITE", "CAP_SETFCAP",
	}
}

// capabilities are what a container gets.
//
// Inheritable is what is ambient and nothing else: the kernel wants both for an
// ambient one, and anything more is CVE-2022-24769. For a user other than root the
// kernel clears permitted and effective at execve, but for the ambient ones.
func capabilities(sc *runtimeapi.LinuxContainerSecurityContext, host Host) *specs.LinuxCapabilities {
	wanted, ambient := wantedCapabilities(sc)
	have := inKernelOrder(intersect(wanted, host.Capabilities))
	raised := inKernelOrder(intersect(ambient, have))
	return &specs.LinuxCapabilities{
		Bounding:    have,
		Effective:   slices.Clone(have),
		Permitted:   slices.Clone(have),
		Inheritable: raised,
		Ambient:     slices.Clone(raised),
	}
}

// wantedCapabilities are what is asked for, whether or not it can be given; ambient
// is a part of all. Both may hold names the kernel does not know.
//
// ALL is the base that is added to or dropped, dropped before added; then what is
// named is added, and what is named as dropped is dropped from every set (CRI,
// message Capability).
func wantedCapabilities(sc *runtimeapi.LinuxContainerSecurityContext) (all, ambient []string) {
	c := sc.GetCapabilities()
	add := canonical(c.GetAddCapabilities())
	drop := canonical(c.GetDropCapabilities())
	ambient = canonical(c.GetAddAmbientCapabilities())
	if sc.GetPrivileged() {
		return capabilityNames(), named(ambient, nil)
	}
	switch {
	case slices.Contains(drop, allCapabilities):
	case slices.Contains(add, allCapabilities), slices.Contains(ambient, allCapabilities):
		all = capabilityNames()
	default:
		all = defaultCapabilities()
	}
	all = append(append(all, named(add, drop)...), named(ambient, drop)...)
	all = slices.DeleteFunc(all, func(n string) bool { return slices.Contains(drop, n) })
	return all, named(ambient, drop)
}

// checkCapabilities refuses names that no kernel knows: one that is misspelt in a list
// to drop would leave the container what it must not have.
func checkCapabilities(c *runtimeapi.Capability) error {
	known := append(capabilityNames(), allCapabilities)
	for _, n := range slices.Concat(c.GetAddCapabilities(), c.GetDropCapabilities(), c.GetAddAmbientCapabilities()) {
		if !slices.Contains(known, canonical([]string{n})[0]) {
			return invalid("capability %q: there is none of that name", n)
		}
	}
	return nil
}

// allCapabilities stands for every one there is.
const allCapabilities = "CAP_ALL"

// canonical writes names as the kernel's headers do. NET_ADMIN, cap_net_admin and
// CAP_NET_ADMIN are the same.
func canonical(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = "CAP_" + strings.TrimPrefix(strings.ToUpper(n), "CAP_")
	}
	return out
}

// named is what names means, without what is in drop. ALL means all of them, unless
// all of them are dropped.
func named(names, drop []string) []string {
	var out []string
	for _, n := range names {
		switch {
		case n == allCapabilities && !slices.Contains(drop, allCapabilities):
			out = append(out, capabilityNames()...)
		case n != allCapabilities:
			out = append(out, n)
		}
	}
	return slices.DeleteFunc(out, func(n string) bool { return slices.Contains(drop, n) })
}

func intersect(a, b []string) []string {
	var both []string
	for _, n := range a {
		if slices.Contains(b, n) {
			both = append(both, n)
		}
	}
	return both
}

// inKernelOrder sorts names by the capability's number, each once. It is never nil:
// no set at all would leave the process what the shim has.
func inKernelOrder(names []string) []string {
	out := []string{}
	for _, n := range capabilityNames() {
		if slices.Contains(names, n) {
			out = append(out, n)
		}
	}
	return out
}
