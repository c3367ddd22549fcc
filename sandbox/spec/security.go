package spec

import (
	"path"
	"slices"
	"strings"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// addSecurity confines the process that addProcess made.
func addSecurity(s *specs.Spec, in Input) error {
	sc := in.Container.GetLinux().GetSecurityContext()
	if err := checkCapabilities(sc.GetCapabilities()); err != nil {
		return err
	}
	s.Process.Capabilities = capabilities(sc, in.Host)
	if err := addPaths(s, sc); err != nil {
		return err
	}
	if err := addSeccomp(s, sc, in); err != nil {
		return err
	}
	if err := addAppArmor(s, sc, in.Host); err != nil {
		return err
	}
	return addSELinux(s, in)
}

// addPaths masks what kubelet says and nothing else: it always sends the lists, and
// empty ones mean procMount: Unmasked. A privileged container has none (CRI).
func addPaths(s *specs.Spec, sc *runtimeapi.LinuxContainerSecurityContext) error {
	if sc.GetPrivileged() {
		return nil
	}
	for _, p := range slices.Concat(sc.GetMaskedPaths(), sc.GetReadonlyPaths()) {
		if !path.IsAbs(p) || strings.ContainsRune(p, 0) {
			return invalid("masked or read-only path %q: not an absolute path", p)
		}
	}
	s.Linux.MaskedPaths = slices.Clone(sc.GetMaskedPaths())
	s.Linux.ReadonlyPaths = slices.Clone(sc.GetReadonlyPaths())
	return nil
}

// addSeccomp sets the system call filter. No profile is Unconfined: kubelet sends
// RuntimeDefault when it wants that, and CRI has unconfined for its default (also
// critest, "nil profile, which is unconfined"). Privileged is unconfined.
//
// The default profile opens what the capabilities in s allow.
func addSeccomp(s *specs.Spec, sc *runtimeapi.LinuxContainerSecurityContext, in Input) error {
	p := sc.GetSeccomp()
	if err := checkProfile("seccomp", p); err != nil {
		return err
	}
	if p == nil || p.GetProfileType() == runtimeapi.SecurityProfile_Unconfined || sc.GetPrivileged() {
		return nil
	}
	if !in.Host.Seccomp {
		return invalid("seccomp: profile %s: the kernel has no seccomp filters", p.GetProfileType())
	}
	if p.GetProfileType() == runtimeapi.SecurityProfile_RuntimeDefault {
		return addDefaultSeccomp(s)
	}
	if len(in.SeccompLocalhost) == 0 {
		return invalid("seccomp: profile %s: empty", p.GetLocalhostRef())
	}
	filter, err := seccomp.LoadProfile(string(in.SeccompLocalhost), s) // Docker's format, of which OCI's is a part
	if err != nil {
		return invalid("seccomp: profile %s: %v", p.GetLocalhostRef(), err)
	}
	if filter == nil || !slices.Contains(seccompActions(), filter.DefaultAction) {
		return invalid("seccomp: profile %s: no defaultAction that is one", p.GetLocalhostRef())
	}
	s.Linux.Seccomp = filter
	return nil
}

func addDefaultSeccomp(s *specs.Spec) error {
	filter, err := seccomp.GetDefaultProfile(s)
	if err != nil {
		return invalid("seccomp: default profile: %v", err)
	}
	s.Linux.Seccomp = filter
	return nil
}

func seccompActions() []specs.LinuxSeccompAction {
	return []specs.LinuxSeccompAction{
		specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActErrno,
		specs.ActTrace, specs.ActAllow, specs.ActLog, specs.ActNotify,
	}
}

// checkProfile checks what CRI says of every SecurityProfile. nil is fine.
func checkProfile(what string, p *runtimeapi.SecurityProfile) error {
	switch p.GetProfileType() {
	case runtimeapi.SecurityProfile_RuntimeDefault, runtimeapi.SecurityProfile_Unconfined:
		if p.GetLocalhostRef() != "" {
			return invalid("%s: localhost_ref with profile %s", what, p.GetProfileType())
		}
	case runtimeapi.SecurityProfile_Localhost:
		if p.GetLocalhostRef() == "" {
			return invalid("%s: profile Localhost without localhost_ref", what)
		}
	default:
		return invalid("%s: profile type %d is unknown", what, p.GetProfileType())
	}
	return nil
}
