package security

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const hostID, size = 1_000_000, 65_536

func mapping(container, host, length uint32) []*runtimeapi.IDMapping {
	return []*runtimeapi.IDMapping{{ContainerId: container, HostId: host, Length: length}}
}

// inUserns gives the pod a user namespace, and its containers, which share its options.
var inUserns = change{pod: func(c *runtimeapi.PodSandboxConfig) {
	m := mapping(0, hostID, size)
	c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: m, Gids: m}
}}

var sharedPIDs = change{pod: func(c *runtimeapi.PodSandboxConfig) {
	c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
}}

var hostNetwork = change{pod: func(c *runtimeapi.PodSandboxConfig) {
	c.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	c.Hostname = ""
}}

var privileged = change{
	pod:       func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true },
	container: func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.Privileged = true },
}

func asUser(uid int64) change {
	return change{container: func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: uid}
	}}
}

// TestUserNamespaceShapes runs a container in each shape of pod that may have a user
// namespace, and looks at it from both sides.
func TestUserNamespaceShapes(t *testing.T) {
	s := open(t)
	for _, tt := range []struct {
		name    string
		changes []change
		user    uint32
	}{
		{"plain", nil, 0},
		{"as a user", []change{asUser(1000)}, 1000},
		{"a shared PID namespace", []change{sharedPIDs}, 0},
		{"the host's network", []change{hostNetwork}, 0},
		{"privileged", []change{privileged}, 0},
		{"privileged on the host's network", []change{privileged, hostNetwork}, 0},
		{"a read-only root", []change{{container: func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.ReadonlyRootfs = true }}}, 0},
		{"a terminal", []change{{container: func(c *runtimeapi.ContainerConfig) { c.Tty = true }}}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			changes := append([]change{inUserns}, tt.changes...)
			podID, pod := s.pod(t, changes...)
			id := s.container(t, podID, pod, changes...)
			pid := s.pid(t, id)
			for _, name := range []string{"uid_map", "gid_map"} {
				if got := strings.Fields(proc(t, pid, name)); strings.Join(got, " ") != "0 1000000 65536" {
					t.Errorf("%s: %v", name, got)
				}
			}
			var st syscall.Stat_t
			if err := syscall.Stat("/proc/"+pid, &st); err != nil || st.Uid != hostID+tt.user {
				t.Errorf("the process is the host's user %d, %v", st.Uid, err)
			}
			inPodsCgroup(t, pid, id)
			ownedBy(t, pid, "ipc", namespace(t, pid, "user"))
			if len(tt.changes) == 0 || tt.changes[0].pod == nil {
				ownedBy(t, pid, "net", namespace(t, pid, "user"))
			}
			s.says(t, id, "cat /proc/self/uid_map", "0 1000000 65536")
			s.says(t, id, "id -u", decimal(tt.user))
			s.says(t, id, "stat -c '%u:%g' / /etc/passwd /etc/resolv.conf /etc/hostname /dev/shm", "0:0 0:0 0:0 0:0 0:0")
			s.says(t, id, "echo x > /dev/shm/x; cat /dev/shm/x; cat /etc/resolv.conf > /dev/null", "x")
			if err := s.RemovePod(t.Context(), podID); err != nil {
				t.Error(err)
			}
		})
	}
}

// inPodsCgroup expects every cgroup of the process to be the container's own, below
// the pod's (CVE-2025-47291).
func inPodsCgroup(t *testing.T, pid, id string) {
	t.Helper()
	found := 0
	for line := range strings.Lines(proc(t, pid, "cgroup")) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if f[0] == "0" && f[2] == "/" && found > 0 {
			continue // the unified hierarchy beside others that have the controllers
		}
		if f[2] == cgroup+"/"+id {
			found++
			continue
		}
		if f[2] != "/" || f[1] != "" {
			t.Errorf("cgroup %s: not below the pod's", strings.TrimSpace(line))
		}
	}
	if found == 0 {
		t.Errorf("in no cgroup of the pod's:\n%s", proc(t, pid, "cgroup"))
	}
}

// TestUserNamespaceFiles has the root of a user namespace at work on its files.
func TestUserNamespaceFiles(t *testing.T) {
	s := open(t)
	host := t.TempDir()
	for _, dir := range []string{filepath.Dir(host), host} {
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []struct {
		name string
		uid  int
	}{{"mapped", 0}, {"plain", 0}, {"mapped/of-user", 1000}, {"plain/of-user", 1000}} {
		path := filepath.Join(host, f.name)
		err := os.Mkdir(path, 0o755)
		if err == nil {
			err = os.Chown(path, f.uid, f.uid)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	podID, pod := s.pod(t, inUserns)
	m := mapping(0, hostID, size)
	id := s.container(t, podID, pod, change{container: func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{
			{ContainerPath: "/mapped", HostPath: host + "/mapped", UidMappings: m, GidMappings: m},
			{ContainerPath: "/read", HostPath: host + "/mapped", UidMappings: m, GidMappings: m, Readonly: true, RecursiveReadOnly: true},
			{ContainerPath: "/plain", HostPath: host + "/plain"},
		}
	}})
	s.says(t, id, "echo new > /etc/new; chown 5:6 /etc/new; stat -c %u:%g /etc/new; echo more >> /etc/passwd; tail -n1 /etc/passwd", "5:6 more")
	s.says(t, id, "mkdir /d; chmod 4755 /d; mv /etc/group /d; ls /d; ! mount -t tmpfs none /d", "group")
	s.says(t, id, "stat -c %u:%g /mapped /mapped/of-user /plain /plain/of-user", "0:0 1000:1000 65534:65534 65534:65534")
	s.says(t, id, "echo x > /mapped/made; echo y > /mapped/of-user/made; stat -c %u /mapped/made; ! echo x > /plain/made", "0")
	s.says(t, id, "! echo x > /read/made; ! mount -o remount,rw /read; ! mknod /dev/sda b 8 0; echo ok", "ok")
	for _, name := range []string{"mapped/made", "mapped/of-user/made"} {
		fi, err := os.Stat(filepath.Join(host, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if uid := fi.Sys().(*syscall.Stat_t).Uid; uid != 0 {
			t.Errorf("%s belongs to %d on the host", name, uid)
		}
	}
	resp, err := s.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	if u := resp.GetStatus().GetUser().GetLinux(); u.GetUid() != 0 || u.GetGid() != 0 {
		t.Errorf("user in the status: %v", u)
	}
	if got := resp.GetStatus().GetMounts(); len(got) != 3 || len(got[0].GetUidMappings()) != 1 || got[0].GetGidMappings()[0].GetHostId() != hostID {
		t.Errorf("mounts in the status: %v", got)
	}
}

// TestUserNamespaceRefused: nothing is made of what cannot be.
func TestUserNamespaceRefused(t *testing.T) {
	s := open(t)
	podID, pod := s.pod(t, inUserns)
	refused := func(name string, edit func(*runtimeapi.ContainerConfig)) {
		t.Helper()
		if id, err := s.tryContainer(t, podID, pod, change{container: edit}); status.Code(err) != codes.InvalidArgument || id != "" {
			t.Errorf("%s: %q, %v", name, id, err)
		}
	}
	options := func(edit func(*runtimeapi.NamespaceOption)) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) {
			o := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
			edit(o)
			c.Linux.SecurityContext.NamespaceOptions = o
		}
	}
	other := mapping(0, hostID+1, size)
	refused("another mapping", options(func(o *runtimeapi.NamespaceOption) {
		o.UsernsOptions = &runtimeapi.UserNamespace{Uids: other, Gids: other}
	}))
	refused("the node's", options(func(o *runtimeapi.NamespaceOption) {
		o.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE}
	}))
	refused("the node's processes", options(func(o *runtimeapi.NamespaceOption) { o.Pid = runtimeapi.NamespaceMode_NODE }))
	refused("a user it has not", asUser(size).container)
	refused("a mount for another pod", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/m", HostPath: "/etc", UidMappings: other, GidMappings: other}}
	})
	refused("a mount for users alone", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/m", HostPath: "/etc", UidMappings: mapping(0, hostID, size)}}
	})
	list, err := s.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
	if err != nil || len(list.GetContainers()) > 0 {
		t.Errorf("containers: %v, %v", list.GetContainers(), err)
	}
}

// TestUserNamespaceOutlivesTheDaemon kills the daemon under pods in user namespaces.
func TestUserNamespaceOutlivesTheDaemon(t *testing.T) {
	s := open(t)
	podID, pod := s.pod(t, inUserns, sharedPIDs)
	id := s.container(t, podID, pod)
	before := namespace(t, s.pid(t, id), "user")
	s.node.Kill()
	if err := s.node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.says(t, id, "cat /proc/self/uid_map", "0 1000000 65536")
	again := s.container(t, podID, pod)
	if got := namespace(t, s.pid(t, again), "user"); got != before {
		t.Errorf("a container of after the restart is in %s, its pod in %s", got, before)
	}
}

// TestUserNamespaceOrphansAreSwept leaves namespaces without a record, as a daemon
// does that was killed half-way.
func TestUserNamespaceOrphansAreSwept(t *testing.T) {
	s := open(t)
	podID, pod := s.pod(t, inUserns)
	id := s.container(t, podID, pod)
	s.node.Kill()
	if err := os.RemoveAll(filepath.Join(s.node.Root, "pods", podID, "pod.json")); err != nil {
		t.Fatal(err)
	}
	if err := s.node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if pods, err := s.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{}); err != nil || len(pods.GetItems()) > 0 {
		t.Errorf("pods: %v, %v", pods.GetItems(), err)
	}
	// What no record owns goes in the background: a pod's folder by its last step, and
	// a container's root, which keeps the image's layers.
	s.gone(t, filepath.Join(s.node.Root, "pods", podID))
	s.gone(t, filepath.Join(s.node.Root, "snapshots", "roots", id))
	// The test's end expects that nothing is left, mounts and files.
}

// gone waits until nothing is at path.
func (s *suite) gone(t *testing.T, path string) {
	t.Helper()
	for _, err := os.Lstat(path); err == nil; _, err = os.Lstat(path) {
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// TestUserNamespaceFeatures: what kubelet is told.
func TestUserNamespaceFeatures(t *testing.T) {
	s := open(t)
	resp, err := s.Status(t.Context(), &runtimeapi.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range resp.GetRuntimeHandlers() {
		if f := h.GetFeatures(); !f.GetUserNamespaces() || !f.GetRecursiveReadOnlyMounts() {
			t.Errorf("handler %q: %v", h.GetName(), f)
		}
	}
	if f := resp.GetFeatures(); len(resp.GetRuntimeHandlers()) == 0 || !f.GetUserNamespacesHostNetwork() || !f.GetSupplementalGroupsPolicy() || !f.GetMountOptions() {
		t.Errorf("features: %v", f)
	}
}
