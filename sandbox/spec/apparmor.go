package spec

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// AppArmorProfile is the name of the profile that RuntimeDefault means, and no profile
// at all. Another one of that name counts until the daemon starts again and replaces it.
const AppArmorProfile = "berth-default"

// localhostPrefix is what kubelet wrote before a profile's name until 1.30, and writes
// in the deprecated field still.
const localhostPrefix = "localhost/"

// appArmorOf is the profile that is asked for: the deprecated field counts when the newer
// one is not set (CRI). nil is none, which is not Unconfined.
func appArmorOf(sc *runtimeapi.LinuxContainerSecurityContext) (*runtimeapi.SecurityProfile, error) {
	if p := sc.GetApparmor(); p != nil {
		return p, checkProfile("apparmor", p)
	}
	switch old := sc.GetApparmorProfile(); {
	case old == "":
		return nil, nil
	case old == "runtime/default":
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, nil
	case old == "unconfined":
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil
	case strings.HasPrefix(old, localhostPrefix):
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: old}, nil
	default:
		return nil, invalid("apparmor_profile %q: neither runtime/default, unconfined nor localhost/NAME", old)
	}
}

// GetsAppArmorDefault tells whether a container gets AppArmorProfile, where the kernel has
// AppArmor: it must be loaded by then. A request that Container refuses gets nothing.
func GetsAppArmorDefault(sc *runtimeapi.LinuxContainerSecurityContext) bool {
	p, err := appArmorOf(sc)
	return err == nil && !sc.GetPrivileged() && p.GetProfileType() == runtimeapi.SecurityProfile_RuntimeDefault
}

// addAppArmor names the profile. Without one from kubelet it is the default one, when
// that is loaded (kubernetes#51746): a node may lack what loading takes, and kubelet has
// asked for nothing. What it does ask for must be loaded, by name where the kernel tells
// which are. A kernel without AppArmor has no profile by name, and its default is none,
// as in all of the field; kubelet does not admit such pods there (KEP-24).
func addAppArmor(s *specs.Spec, sc *runtimeapi.LinuxContainerSecurityContext, host Host) error {
	p, err := appArmorOf(sc)
	if err != nil {
		return err
	}
	localhost := p.GetProfileType() == runtimeapi.SecurityProfile_Localhost
	switch {
	case localhost && !host.AppArmor:
		return invalid("apparmor: profile %s: the kernel has no AppArmor", p.GetLocalhostRef())
	case !host.AppArmor, sc.GetPrivileged(), p.GetProfileType() == runtimeapi.SecurityProfile_Unconfined:
	case localhost:
		name := strings.TrimPrefix(p.GetLocalhostRef(), localhostPrefix)
		if name == "" || strings.ContainsAny(name, "\n\x00") {
			return invalid("apparmor: profile %q: not a name", p.GetLocalhostRef())
		}
		if host.AppArmorProfiles != nil && !slices.Contains(host.AppArmorProfiles, name) {
			return fmt.Errorf("apparmor: profile %s: not loaded; load it with apparmor_parser: %w", name, ErrNoProfile)
		}
		s.Process.ApparmorProfile = name
	default:
		s.Process.ApparmorProfile = host.appArmorDefault()
		if s.Process.ApparmorProfile == "" && p != nil {
			return fmt.Errorf("apparmor: RuntimeDefault: %w: %w", host.appArmorLack(), ErrNoProfile)
		}
	}
	return nil
}

// appArmorDefault is the profile for RuntimeDefault, "" when none is loaded.
func (h Host) appArmorDefault() string {
	if h.AppArmor && slices.Contains(h.AppArmorProfiles, AppArmorProfile) {
		return AppArmorProfile
	}
	return ""
}

// appArmorLack is why appArmorDefault is "".
func (h Host) appArmorLack() error {
	if h.AppArmorLack != nil {
		return fmt.Errorf("%s: %w", AppArmorProfile, h.AppArmorLack)
	}
	return errors.New(AppArmorProfile + ": not loaded")
}
