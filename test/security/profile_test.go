package security

import (
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func localhost(ref string) *runtimeapi.SecurityProfile {
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: ref}
}

// TestLocalhostProfiles: a seccomp profile of the node's holds, and a profile that is
// not there, or is none, is an error of the creation that leaves nothing.
func TestLocalhostProfiles(t *testing.T) {
	s := open(t)
	podID, pod := s.pod(t)
	file := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good.json", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}`)
	id := s.container(t, podID, pod, with(func(c *securityContext) { c.Seccomp = localhost(good) }))
	s.says(t, id, "mkdir /made 2>&1 || true; grep Seccomp: /proc/self/status", "mkdir: can't create directory '/made': Function not implemented Seccomp: 2")
	if _, err := s.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		edit func(*securityContext)
		code codes.Code
	}{
		{"seccomp, missing", func(c *securityContext) { c.Seccomp = localhost(good + "-none") }, codes.FailedPrecondition},
		{"seccomp, no name", func(c *securityContext) { c.Seccomp = localhost("") }, codes.InvalidArgument},
		{"seccomp, no JSON", func(c *securityContext) { c.Seccomp = localhost(file("bad.json", "{")) }, codes.InvalidArgument},
		{"seccomp, no default action", func(c *securityContext) { c.Seccomp = localhost(file("empty.json", "{}")) }, codes.InvalidArgument},
		{"seccomp, a folder", func(c *securityContext) { c.Seccomp = localhost(t.TempDir()) }, codes.Unknown},
		{"AppArmor, not loaded", func(c *securityContext) { c.Apparmor = localhost("berth-test-none") }, appArmorCode()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := s.tryContainer(t, podID, pod, with(tt.edit))
			if status.Code(err) != tt.code {
				t.Errorf("%v, want %v", err, tt.code)
			}
			t.Log(err)
			s.hasNoContainers(t)
		})
	}
	// The test's end expects that nothing is left, mounts and files.
}

// appArmorCode is what a missing profile is on this kernel.
func appArmorCode() codes.Code {
	if _, err := os.Stat("/sys/kernel/security/apparmor/profiles"); err != nil {
		return codes.InvalidArgument // no profile at all can be had
	}
	return codes.FailedPrecondition
}

// hasNoContainers looks where the daemon keeps containers.
func (s *suite) hasNoContainers(t *testing.T) {
	t.Helper()
	list, err := s.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
	if err != nil || len(list.GetContainers()) > 0 {
		t.Errorf("containers: %v, %v", list.GetContainers(), err)
	}
	for _, pattern := range []string{filepath.Join(s.node.State, "containers", "*"), filepath.Join(s.node.Root, "pods", "*", "containers", "*"),
		filepath.Join(s.node.Root, "pods", "*", "devices", "*"), "/sys/fs/cgroup/*" + cgroup + "/*/"} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}
