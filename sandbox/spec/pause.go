package spec

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// pauseOOMScore is what the field gives a pod's holder: it is killed after everything
// else, the kubelet (-999) excepted.
const pauseOOMScore = -998

// Pause gives the OCI runtime spec of the process that is PID 1 of a PID namespace
// which a whole pod shares: /pause in rootfs, an absolute path, mounted read-only.
//
// Of in it takes ID, PodID, Pod, Namespaces, Host, SELinux and SystemdCgroup. The process has
// no capability, the RuntimeDefault seccomp profile where the kernel has seccomp, the
// default AppArmor profile where that is loaded, whatever the pod's containers have, and next to no CPU; its memory is not limited, since the pod's cgroup is. Containers of
// the pod can see it, and /proc/1/root with it: so its /proc is masked like a
// container's, there is no /sys, and nothing of the host is mounted.
func Pause(in Input, rootfs string) (*specs.Spec, error) {
	switch {
	case !idPattern.MatchString(in.ID) || !idPattern.MatchString(in.PodID):
		return nil, invalid("pod %q: holder %q: not an ID", in.PodID, in.ID)
	case in.Pod.GetMetadata() == nil:
		return nil, invalid("pod %s: no metadata", in.PodID)
	}
	options := in.Pod.GetLinux().GetSecurityContext().GetNamespaceOptions()
	user, err := userNamespace(in.Pod, in.Namespaces.User)
	if err != nil {
		return nil, err
	}
	shared, err := sharedNamespaces(options, in.Namespaces)
	if err != nil {
		return nil, err
	}
	cgroup, err := CgroupsPath(in.Pod.GetLinux().GetCgroupParent(), in.ID, in.SystemdCgroup)
	if err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: rootfs, Readonly: true},
		Process: pauseProcess(in.Host),
		Mounts:  []specs.Mount{procMount(), devMount()},
		Annotations: map[string]string{
			annotationType:             "sandbox",
			annotationSandboxID:        in.PodID,
			annotationSandboxName:      in.Pod.GetMetadata().GetName(),
			annotationSandboxNamespace: in.Pod.GetMetadata().GetNamespace(),
		},
		Linux: &specs.Linux{
			CgroupsPath: cgroup,
			Resources: &specs.LinuxResources{
				CPU:     &specs.LinuxCPU{Shares: new(uint64(2))},
				Devices: noDevices(),
			},
			Namespaces: append(slices.Concat(user, shared),
				specs.LinuxNamespace{Type: specs.PIDNamespace}, specs.LinuxNamespace{Type: specs.MountNamespace}),
			MaskedPaths:   maskedPaths(),
			ReadonlyPaths: readonlyPaths(),
		},
	}
	if in.Host.CgroupV2 {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	if err := addSELinux(s, in); err != nil {
		return nil, err
	}
	if in.Host.Seccomp {
		return s, addDefaultSeccomp(s)
	}
	return s, nil
}

// pauseProcess is root without any capability: root, because the holder's folder is
// open to nobody else.
func pauseProcess(host Host) *specs.Process {
	none := func() []string { return []string{} }
	oom := max(pauseOOMScore, host.OOMScoreAdjMin)
	return &specs.Process{
		Args:            []string{"/pause"},
		Env:             []string{"PATH=" + defaultPath},
		Cwd:             "/",
		NoNewPrivileges: true,
		OOMScoreAdj:     &oom,
		ApparmorProfile: host.appArmorDefault(),
		Capabilities: &specs.LinuxCapabilities{
			Bounding: none(), Effective: none(), Permitted: none(), Inheritable: none(), Ambient: none(),
		},
	}
}

// maskedPaths are kubelet's (pkg/securitycontext, procMount: Default) and what the
// field has added since, for the one process that kubelet sends no list for.
func maskedPaths() []string {
	return []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
	}
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}
