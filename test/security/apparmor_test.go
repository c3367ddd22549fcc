package security

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const defaultProfile = "berth-default"

// parser runs apparmor_parser on a text.
func parser(t *testing.T, option, text string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "apparmor_parser", option)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("apparmor_parser %s: %v: %s", option, err, out)
	}
}

// loadedProfile tells whether the kernel has the profile.
func loadedProfile(t *testing.T, name string) bool {
	t.Helper()
	list, err := os.ReadFile("/sys/kernel/security/apparmor/profiles")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains("\n"+string(list), "\n"+name+" (")
}

func profileOf(kind runtimeapi.SecurityProfile_ProfileType) change {
	return with(func(c *securityContext) { c.Apparmor = &runtimeapi.SecurityProfile{ProfileType: kind} })
}

// TestAppArmor: who gets the default profile is confined by it, an exec too, and it is
// loaded again when somebody has unloaded it.
func TestAppArmor(t *testing.T) {
	if on, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err != nil || on[0] != 'Y' {
		t.Skip("the kernel has no AppArmor")
	}
	s := open(t)
	podID, pod := s.pod(t, sharedPIDs)
	const whose = "cat /proc/self/attr/current; true"
	const enforced = defaultProfile + " (enforce)"
	id := s.container(t, podID, pod)
	s.says(t, id, whose, enforced)
	s.says(t, id, "cat /proc/1/attr/current; true", enforced) // the holder

	parser(t, "-R", "profile "+defaultProfile+" {}\n")
	if loadedProfile(t, defaultProfile) {
		t.Fatal("it is still loaded")
	}
	admin := with(func(c *securityContext) {
		c.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
	})
	id = s.container(t, podID, pod, admin, profileOf(runtimeapi.SecurityProfile_RuntimeDefault))
	s.says(t, id, whose, enforced)
	const mount = "mkdir /m; mount -t tmpfs none /m >/dev/null 2>&1 && echo mounted || echo refused"
	s.says(t, id, mount, "refused")

	id = s.container(t, podID, pod, admin, profileOf(runtimeapi.SecurityProfile_Unconfined))
	s.says(t, id, whose, "unconfined")
	s.says(t, id, mount, "mounted")
	s.says(t, s.container(t, podID, pod, with(func(c *securityContext) { c.ApparmorProfile = "unconfined" })), whose, "unconfined")

	const mine = "profile berth-test-deny flags=(attach_disconnected) {\n file,\n signal,\n capability,\n deny /tmp/** w,\n}\n"
	parser(t, "-r", mine)
	t.Cleanup(func() { parserCleanup(t, mine) })
	id = s.container(t, podID, pod, with(func(c *securityContext) { c.Apparmor = localhost("berth-test-deny") }))
	s.says(t, id, "cat /proc/self/attr/current; touch /tmp/x 2>&1 || true", "berth-test-deny (enforce) touch: /tmp/x: Permission denied")
}

func parserCleanup(t *testing.T, text string) {
	cmd := exec.Command("apparmor_parser", "-R")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("apparmor_parser -R: %v: %s", err, out)
	}
}

// TestNoAppArmorParser: a node without it runs what asks for nothing, and refuses what
// asks for the default profile.
func TestNoAppArmorParser(t *testing.T) {
	if on, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err != nil || on[0] != 'Y' {
		t.Skip("the kernel has no AppArmor")
	}
	if loadedProfile(t, defaultProfile) {
		parser(t, "-R", "profile "+defaultProfile+" {}\n")
	}
	// A parser that fails stands before the real one.
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "apparmor_parser"), []byte("#!/bin/sh\necho no policy for you >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	s := open(t)
	podID, pod := s.pod(t)
	_, err := s.tryContainer(t, podID, pod, profileOf(runtimeapi.SecurityProfile_RuntimeDefault))
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "no policy for you") {
		t.Errorf("RuntimeDefault: %v", err)
	}
	s.hasNoContainers(t)
	s.says(t, s.container(t, podID, pod), "cat /proc/self/attr/current; true", "unconfined")
}
