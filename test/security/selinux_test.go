package security

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/selinux/go-selinux"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// labelOf is the label of a container's first process: user:role:type, and the level.
func (s *suite) labelOf(t *testing.T, id string) (base, level string) {
	t.Helper()
	text := strings.TrimRight(proc(t, s.pid(t, id), "attr/current"), "\x00\n")
	parts := strings.SplitN(text, ":", 4)
	if len(parts) != 4 {
		t.Fatalf("label %q", text)
	}
	return strings.Join(parts[:3], ":"), parts[3]
}

func at(host string, relabel bool) change {
	return change{container: func(c *runtimeapi.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtimeapi.Mount{HostPath: host, ContainerPath: "/data", SelinuxRelabel: relabel})
	}}
}

func selinuxOptions(o *runtimeapi.SELinuxOption) change {
	return with(func(c *securityContext) { c.SelinuxOptions = o })
}

// TestSELinux looks at containers on a node that enforces: who has which label, and what
// the kernel lets whom do.
func TestSELinux(t *testing.T) {
	if !selinux.GetEnabled() || selinux.EnforceMode() != selinux.Enforcing {
		t.Skip("the kernel does not enforce SELinux; go run ./test/vm run selinux does")
	}
	s := open(t)
	confined, free := "system_u:system_r:container_t", "system_u:system_r:spc_t"
	podA, confA := s.pod(t)
	podB, confB := s.pod(t)
	a, b := s.container(t, podA, confA), s.container(t, podB, confB)
	baseA, levelA := s.labelOf(t, a)
	baseB, levelB := s.labelOf(t, b)
	if baseA != confined || baseB != confined || levelA == levelB || !strings.HasPrefix(levelA, "s0:c") {
		t.Fatalf("pods are %s:%s and %s:%s", baseA, levelA, baseB, levelB)
	}

	t.Run("what a container has", func(t *testing.T) {
		for name, changes := range map[string][]change{
			"plain": nil, "user namespace": {inUserns}, "shared PIDs": {sharedPIDs}, "host network": {hostNetwork}, "a user": {asUser(1000)},
			"no new privileges": {with(func(c *securityContext) { c.NoNewPrivs = true })},
		} {
			podID, pod := s.pod(t, changes...)
			id := s.container(t, podID, pod, changes...)
			if base, level := s.labelOf(t, id); base != confined || level == levelA || level == levelB {
				t.Errorf("%s: %s:%s", name, base, level)
			}
			s.says(t, id, "cat /etc/resolv.conf /etc/hostname > /dev/null; echo x > /dev/shm/x; cat /dev/shm/x; echo y > /tmp/y; cat /tmp/y", "x y")
			s.says(t, id, "cat /proc/self/attr/current | tr -d '\\0' | cut -d: -f3", "container_t")
		}
	})

	t.Run("volumes", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "v")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte("secret\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		unlabelled := s.container(t, podA, confA, at(dir, false))
		s.says(t, unlabelled, "cat /data/f 2>/dev/null || echo denied", "denied")
		podC, confC := s.pod(t, privileged)
		all := s.container(t, podC, confC, at(dir, false), privileged)
		s.says(t, all, "cat /data/f", "secret")
		if base, level := s.labelOf(t, all); base != free || level != "s0" {
			t.Errorf("privileged: %s:%s", base, level)
		}
		mine := s.container(t, podA, confA, at(dir, true))
		s.says(t, mine, "cat /data/f; echo more > /data/g; cat /data/g", "secret more")
		theirs := s.container(t, podB, confB, at(dir, false))
		s.says(t, theirs, "cat /data/f 2>/dev/null || echo denied", "denied")
	})

	t.Run("refused", func(t *testing.T) {
		for name, tt := range map[string]struct {
			change change
			code   codes.Code
		}{
			"a level that is none":               {selinuxOptions(&runtimeapi.SELinuxOption{Level: "s0,c1"}), codes.InvalidArgument},
			"a category that is none":            {selinuxOptions(&runtimeapi.SELinuxOption{Level: "s0:c4000"}), codes.InvalidArgument},
			"a type that the policy has not":     {selinuxOptions(&runtimeapi.SELinuxOption{Type: "no_such_t"}), codes.InvalidArgument},
			"a label for a part of the system":   {at("/etc", true), codes.FailedPrecondition},
			"a label for all of the node's data": {at("/var/lib", true), codes.FailedPrecondition},
		} {
			if _, err := s.tryContainer(t, podA, confA, tt.change); status.Code(err) != tt.code {
				t.Errorf("%s: %v", name, err)
			}
		}
		if label, err := selinux.FileLabel("/etc"); err != nil || strings.Contains(label, "container") {
			t.Errorf("/etc is %s, %v", label, err)
		}
	})

	t.Run("a level of its own", func(t *testing.T) {
		id := s.container(t, podA, confA, selinuxOptions(&runtimeapi.SELinuxOption{Level: "s0:c4,c5"}))
		if _, level := s.labelOf(t, id); level != "s0:c4,c5" {
			t.Errorf("level %s", level)
		}
		s.says(t, id, "cat /etc/resolv.conf > /dev/null && echo ok", "ok")
		s.says(t, a, "cat /etc/resolv.conf > /dev/null && echo ok", "ok")
	})

	t.Run("after a restart", func(t *testing.T) {
		s.node.Kill()
		if err := s.node.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		id := s.container(t, podA, confA)
		if _, level := s.labelOf(t, id); level != levelA {
			t.Errorf("level %s, not %s", level, levelA)
		}
		s.says(t, a, "cat /proc/self/attr/current | tr -d '\\0' | cut -d: -f4-", levelA)
	})
}
