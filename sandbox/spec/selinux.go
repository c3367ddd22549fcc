package spec

import (
	"regexp"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// SELinux is what a spec depends on of the node's SELinux policy, and the pod's level.
// The zero SELinux labels nothing. Labels are user:role:type:level.
type SELinux struct {
	Process    string // of a container
	Privileged string // of one that is not confined; "" is the runtime's own
	File       string // of what a container may write
	Level      string // of the pod, for containers without a level of their own
}

// Labels are a container's own.
type Labels struct {
	Process string // of its processes; "" is the runtime's own
	Mount   string // of what is mounted for it
}

// SELinuxLabels gives the labels of a container, or of the pod itself when c is nil:
// ErrInvalid for options that are no parts of a label. Whether the policy knows the
// label is the kernel's to say.
//
// A privileged container is not confined (CRI), and one that has the node's processes
// or IPC objects cannot be, since those have the node's labels; unless kubelet names
// its type. Their files have the pod's level all the same. The node's network takes
// nothing away.
func (e SELinux) SELinuxLabels(pod *runtimeapi.PodSandboxConfig, c *runtimeapi.ContainerConfig) (Labels, error) {
	if e.Process == "" {
		return Labels{}, nil
	}
	sc := c.GetLinux().GetSecurityContext()
	o := sc.GetSelinuxOptions()
	if o == nil {
		o = pod.GetLinux().GetSecurityContext().GetSelinuxOptions()
	}
	if err := checkLabel(o); err != nil {
		return Labels{}, err
	}
	level := o.GetLevel()
	if level == "" {
		level = e.Level
	}
	labels := Labels{
		Process: label(e.Process, o.GetUser(), o.GetRole(), o.GetType(), level),
		Mount:   label(e.File, o.GetUser(), "", "", level),
	}
	ns := NamespaceOptions(pod, c)
	free := o.GetType() == "" && c != nil && (ns.GetPid() == runtimeapi.NamespaceMode_NODE || ns.GetIpc() == runtimeapi.NamespaceMode_NODE)
	if sc.GetPrivileged() || free {
		labels.Process = e.Privileged
	}
	return labels, nil
}

// addSELinux labels the process and what is mounted for it.
func addSELinux(s *specs.Spec, in Input) error {
	labels, err := in.SELinux.SELinuxLabels(in.Pod, in.Container)
	if err != nil {
		return err
	}
	s.Process.SelinuxLabel, s.Linux.MountLabel = labels.Process, labels.Mount
	return nil
}

// label replaces the parts of user:role:type:level that are not empty.
func label(base string, parts ...string) string {
	of := strings.SplitN(base, ":", 4)
	for i, p := range parts {
		switch {
		case p == "":
		case i < len(of):
			of[i] = p
		case i == len(of):
			of = append(of, p)
		}
	}
	return strings.Join(of, ":")
}

// A level is one or a range of two of a sensitivity with categories: s0:c1,c4.c7.
var (
	labelPart  = regexp.MustCompile(`^[A-Za-z0-9_.-]*$`)
	labelLevel = regexp.MustCompile(`^(s[0-9]+(:c[0-9]+([.,]c[0-9]+)*)?(-s[0-9]+(:c[0-9]+([.,]c[0-9]+)*)?)?)?$`)
)

func checkLabel(o *runtimeapi.SELinuxOption) error {
	for _, p := range []string{o.GetUser(), o.GetRole(), o.GetType()} {
		if !labelPart.MatchString(p) {
			return invalid("selinux: %q is no part of a label", p)
		}
	}
	if !labelLevel.MatchString(o.GetLevel()) {
		return invalid("selinux: %q is no level; one is s0, or s0:c1,c2", o.GetLevel())
	}
	return nil
}
