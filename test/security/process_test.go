package security

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type securityContext = runtimeapi.LinuxContainerSecurityContext

func with(edit func(*securityContext)) change {
	return change{container: func(c *runtimeapi.ContainerConfig) { edit(c.Linux.SecurityContext) }}
}

// TestStartedContainerHasNothingOfOurs: three descriptors, no inheritable capability
// (CVE-2022-24769), and the pod's cgroup, in a container and in a command beside it.
func TestStartedContainerHasNothingOfOurs(t *testing.T) {
	s := open(t)
	for name, changes := range map[string][]change{
		"plain": nil, "a user": {asUser(1000)}, "privileged": {privileged}, "a user namespace": {inUserns}, "shared PIDs": {sharedPIDs},
	} {
		t.Run(name, func(t *testing.T) {
			podID, pod := s.pod(t, changes...)
			id := s.container(t, podID, pod, changes...)
			pid := s.pid(t, id)
			for strings.TrimSpace(proc(t, pid, "comm")) != "sleep" {
				runtime.Gosched() // it is still what starts it
			}
			entries, err := os.ReadDir("/proc/" + pid + "/fd")
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				to, err := os.Readlink("/proc/" + pid + "/fd/" + e.Name())
				if errors.Is(err, fs.ErrNotExist) {
					continue // closed by now: the loader's, which opens libraries as the command starts
				}
				ofLoader := strings.HasPrefix(to, "/lib") || to == "/etc/ld.so.cache"
				if !strings.Contains(" 0 1 2 ", " "+e.Name()+" ") && !ofLoader {
					t.Errorf("descriptor %s is %s", e.Name(), to)
				}
			}
			if got := field(t, pid, "CapInh"); got != "0000000000000000" {
				t.Errorf("inheritable: %s", got)
			}
			inPodsCgroup(t, pid, id)
			s.says(t, id, "grep CapInh /proc/self/status", "CapInh: 0000000000000000")
			s.says(t, id, "ls /proc/self/fd", "0 1 2 3") // 3 is the folder that is listed
		})
	}
}

// TestWorkingDirectoryStaysInside: no working directory leads out of a container
// through a descriptor (CVE-2024-21626).
func TestWorkingDirectoryStaysInside(t *testing.T) {
	s := open(t)
	podID, pod := s.pod(t)
	link := s.container(t, podID, pod)
	for n := range 65 {
		dir := fmt.Sprintf("/proc/self/fd/%d", n)
		id, err := s.tryContainer(t, podID, pod, change{container: func(c *runtimeapi.ContainerConfig) { c.WorkingDir = dir }})
		if err == nil {
			s.says(t, id, "pwd -P", "none")
			t.Errorf("a container works in %s", dir)
		}
		// A command's directory is its container's; a shell may still try to go there.
		out := s.sh(t, link, "cd "+dir+" 2>/dev/null && { pwd -P; ls; } || echo refused")
		if strings.Contains(out, "berth") || strings.Contains(out, "(unreachable)") {
			t.Errorf("%s: %s", dir, out)
		}
	}
}

// TestNoAbstractSockets: nothing of ours listens where a pod on the host's network
// could reach it by name (CVE-2020-15257).
func TestNoAbstractSockets(t *testing.T) {
	s := open(t)
	podID, pod := s.pod(t, hostNetwork)
	id := s.container(t, podID, pod, hostNetwork)
	for line := range strings.Lines(s.sh(t, id, "cat /proc/net/unix")) {
		f := strings.Fields(line)
		if len(f) < 8 || !strings.HasPrefix(f[7], "@") {
			continue
		}
		if strings.Contains(f[7], "berth") || strings.Contains(f[7], "shim") || strings.Contains(f[7], s.node.State) {
			t.Errorf("an abstract socket: %s", f[7])
		}
	}
}

// TestPIDModes: whose processes a container sees.
func TestPIDModes(t *testing.T) {
	s := open(t)
	pidMode := func(m runtimeapi.NamespaceMode, target string) change {
		return with(func(c *securityContext) {
			o := &runtimeapi.NamespaceOption{Pid: m, TargetId: target}
			c.NamespaceOptions = o
		})
	}
	for _, shape := range []struct {
		name    string
		changes []change
	}{{"the host's users", nil}, {"a user namespace", []change{inUserns}}} {
		t.Run(shape.name, func(t *testing.T) {
			podID, pod := s.pod(t, append([]change{sharedPIDs}, shape.changes...)...)
			a, b := s.container(t, podID, pod), s.container(t, podID, pod)
			if namespace(t, s.pid(t, a), "pid") != namespace(t, s.pid(t, b), "pid") {
				t.Error("POD: two containers do not share it")
			}
			s.says(t, a, "cat /proc/1/comm; pidof sleep | wc -w", "pause 2")
			own := s.container(t, podID, pod, pidMode(runtimeapi.NamespaceMode_CONTAINER, ""))
			s.says(t, own, "cat /proc/1/comm; pidof sleep", "sleep 1")
			target := s.container(t, podID, pod, pidMode(runtimeapi.NamespaceMode_TARGET, own))
			if namespace(t, s.pid(t, target), "pid") != namespace(t, s.pid(t, own), "pid") {
				t.Error("TARGET: not the target's")
			}
			s.says(t, target, "pidof sleep | wc -w", "2")
			other, otherPod := s.pod(t, shape.changes...)
			if _, err := s.tryContainer(t, other, otherPod, pidMode(runtimeapi.NamespaceMode_TARGET, own)); err == nil {
				t.Error("TARGET: of another pod")
			}
		})
	}
	node := change{pod: func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_NODE
		c.Linux.SecurityContext.NamespaceOptions.Ipc = runtimeapi.NamespaceMode_NODE
	}}
	podID, pod := s.pod(t, node)
	id := s.container(t, podID, pod)
	for _, kind := range []string{"pid", "ipc"} {
		if namespace(t, s.pid(t, id), kind) != namespace(t, "self", kind) {
			t.Errorf("NODE: %s is not the host's", kind)
		}
	}
	podID, pod = s.pod(t)
	a, b := s.pid(t, s.container(t, podID, pod)), s.pid(t, s.container(t, podID, pod))
	if ipc := namespace(t, a, "ipc"); ipc != namespace(t, b, "ipc") || ipc == namespace(t, "self", "ipc") {
		t.Error("IPC POD: not shared, or the host's")
	}
}

// TestGroupsAndCapabilities: the process is what its security context says, and the
// status says the same.
func TestGroupsAndCapabilities(t *testing.T) {
	s := open(t)
	podID, pod := s.pod(t)
	for _, tt := range []struct {
		name, script, want string
		edit               func(*securityContext)
		user               []int64 // uid, gid, groups
	}{
		{"strict", "id -G", "2000 3000", func(c *securityContext) {
			c.RunAsUser, c.RunAsGroup = &runtimeapi.Int64Value{Value: 1000}, &runtimeapi.Int64Value{Value: 2000}
			c.SupplementalGroups, c.SupplementalGroupsPolicy = []int64{3000}, runtimeapi.SupplementalGroupsPolicy_Strict
		}, []int64{1000, 2000, 2000, 3000}},
		{"by name", "id -u; id -g; id -G", "33 33 33 7", func(c *securityContext) {
			c.RunAsUsername, c.SupplementalGroups = "www-data", []int64{7}
		}, []int64{33, 33, 33, 7}},
		{"ambient", "grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status | cut -f2", "0000000000000400 0000000000000400 0000000000000400 0000000000000400", func(c *securityContext) {
			c.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
			c.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}}
		}, []int64{1000, 0, 0}},
		{"added and not ambient", "grep -E 'Cap(Inh|Prm|Amb)' /proc/self/status | cut -f2", "0000000000000000 0000000000000000 0000000000000000", func(c *securityContext) {
			c.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
			c.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}}
		}, []int64{1000, 0, 0}},
		{"no new privileges", "grep NoNewPrivs /proc/self/status", "NoNewPrivs: 1", func(c *securityContext) { c.NoNewPrivs = true }, []int64{0, 0, 0}},
		{"masked and read-only paths", "cat /proc/version; ! echo x > /proc/sys/kernel/domainname 2>/dev/null && echo refused", "refused", func(c *securityContext) {
			c.MaskedPaths, c.ReadonlyPaths = []string{"/proc/version"}, []string{"/proc/sys"}
		}, []int64{0, 0, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := s.container(t, podID, pod, with(tt.edit))
			s.says(t, id, tt.script, tt.want)
			resp, err := s.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
			if err != nil {
				t.Fatal(err)
			}
			u := resp.GetStatus().GetUser().GetLinux()
			if got := append([]int64{u.GetUid(), u.GetGid()}, u.GetSupplementalGroups()...); fmt.Sprint(got) != fmt.Sprint(tt.user) {
				t.Errorf("status: %v, want %v", got, tt.user)
			}
		})
	}
}
