package spec

import (
	"path/filepath"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestGoldenMatrix crosses what a security context says with where its pod lives:
// testdata/golden has the whole spec of each. go test -update writes them anew.
func TestGoldenMatrix(t *testing.T) {
	type sc = runtimeapi.LinuxContainerSecurityContext
	runtimeDefault := &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	surroundings := map[string][]change{
		"plain":              nil,
		"userns":             {inUserns},
		"host-network":       {inHostNetwork},
		"userns-hostnetwork": {inUserns, inHostNetwork},
	}
	contexts := map[string][]change{
		"none":        nil,
		"privileged":  {asPrivileged},
		"user":        {asUser},
		"restricted":  {asUser, security(restricted)},
		"caps-all":    {security(func(s *sc) { s.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"ALL"}} })},
		"caps-none":   {security(func(s *sc) { s.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}} })},
		"ambient":     {asUser, security(func(s *sc) { s.Capabilities = &runtimeapi.Capability{AddAmbientCapabilities: []string{"NET_RAW"}} })},
		"seccomp":     {security(func(s *sc) { s.Seccomp = runtimeDefault })},
		"apparmor":    {apparmor, security(func(s *sc) { s.Apparmor = runtimeDefault })},
		"selinux":     {selinuxHost, security(func(s *sc) { s.SelinuxOptions = &runtimeapi.SELinuxOption{Level: "s0:c1,c2"} })},
		"ro-rootfs":   {security(func(s *sc) { s.ReadonlyRootfs = true })},
		"unmasked":    {security(func(s *sc) { s.MaskedPaths, s.ReadonlyPaths = nil, nil })},
		"no-new-priv": {security(func(s *sc) { s.NoNewPrivs = true })},
		"clamped":     {asPrivileged, clampedHost},
	}
	for where, around := range surroundings {
		for name, changes := range contexts {
			t.Run(where+"/"+name, func(t *testing.T) {
				golden(t, filepath.Join("golden", where+"-"+name), mustContainer(t, append(append([]change{}, around...), changes...)...))
			})
		}
	}
}
