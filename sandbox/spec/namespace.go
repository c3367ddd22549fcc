package spec

import (
	"errors"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// addNamespaces lets the container join its pod's namespaces. The hostname and the
// sysctls live in those, so the spec has neither.
func addNamespaces(s *specs.Spec, in Input) error {
	podOptions := in.Pod.GetLinux().GetSecurityContext().GetNamespaceOptions()
	options := NamespaceOptions(in.Pod, in.Container)
	if err := CheckUserNamespace(in.Pod, in.Container); err != nil {
		return err
	}
	user, err := userNamespace(in.Pod, in.Namespaces.User)
	if err != nil {
		return err
	}
	shared, err := sharedNamespaces(podOptions, in.Namespaces)
	if err != nil {
		return err
	}
	pid, err := pidNamespace(options, in.Namespaces.PID)
	if err != nil {
		return err
	}
	s.Linux.Namespaces = append(slices.Concat(user, shared, pid), specs.LinuxNamespace{Type: specs.MountNamespace})
	// A privileged container sees the host's cgroups: it manages them (CRI:
	// "sensitive paths … are not masked").
	if in.Host.CgroupV2 && !privileged(in) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return nil
}

// NamespaceOptions are the container's, or its pod's when it has none: simple clients
// set the pod's alone. May be nil, which is mode POD for all.
func NamespaceOptions(pod *runtimeapi.PodSandboxConfig, c *runtimeapi.ContainerConfig) *runtimeapi.NamespaceOption {
	if o := c.GetLinux().GetSecurityContext().GetNamespaceOptions(); o != nil {
		return o
	}
	return pod.GetLinux().GetSecurityContext().GetNamespaceOptions()
}

// sharedNamespaces joins what a pod's containers always share. A path that is
// missing while the pod is not in the host's namespace must not become the host's.
func sharedNamespaces(pod *runtimeapi.NamespaceOption, paths Namespaces) ([]specs.LinuxNamespace, error) {
	const node = runtimeapi.NamespaceMode_NODE
	var joined []specs.LinuxNamespace
	for _, n := range []struct {
		kind specs.LinuxNamespaceType
		path string
		host bool
	}{
		{specs.NetworkNamespace, paths.Net, pod.GetNetwork() == node},
		{specs.IPCNamespace, paths.IPC, pod.GetIpc() == node},
		{specs.UTSNamespace, paths.UTS, pod.GetNetwork() == node}, // CRI has no UTS mode: it goes with the network
	} {
		switch {
		case n.path != "":
			joined = append(joined, specs.LinuxNamespace{Type: n.kind, Path: n.path})
		case !n.host:
			return nil, errors.New(string(n.kind) + " namespace: the pod has its own and no path was given")
		}
	}
	return joined, nil
}

// pidNamespace is none for the host's.
func pidNamespace(o *runtimeapi.NamespaceOption, path string) ([]specs.LinuxNamespace, error) {
	switch mode := o.GetPid(); mode {
	case runtimeapi.NamespaceMode_NODE:
		return nil, nil
	case runtimeapi.NamespaceMode_CONTAINER:
		return []specs.LinuxNamespace{{Type: specs.PIDNamespace}}, nil
	case runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_TARGET:
		if path == "" {
			return nil, invalid("PID namespace: mode %s and there is none to join", mode)
		}
		return []specs.LinuxNamespace{{Type: specs.PIDNamespace, Path: path}}, nil
	default:
		return nil, invalid("PID namespace: mode %d is unknown", mode)
	}
}
