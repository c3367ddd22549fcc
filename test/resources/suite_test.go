package resources

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

const (
	busybox = "docker.io/library/busybox:latest"
	mib     = 1 << 20
)

type limits = runtimeapi.LinuxContainerResources

// A suite is a node with one pod, whose cgroup is made and removed as kubelet does.
type suite struct {
	*node.Fresh
	cgroup *node.PodCgroup
	podID  string
	pod    *runtimeapi.PodSandboxConfig
	made   int
}

func open(t *testing.T) *suite {
	t.Helper()
	s := &suite{cgroup: node.MakePodCgroup(t, "berthresources")}
	s.Fresh = node.Running(t, node.CgroupDriver(), nil)
	if _, err := s.Pull(t.Context(), busybox); err != nil {
		t.Fatal(err)
	}
	s.pod = node.Pod("pod", s.Logs)
	s.pod.Linux.CgroupParent = s.cgroup.Parent
	var err error
	if s.podID, err = s.RunPod(t.Context(), s.pod); err != nil {
		t.Fatal(err)
	}
	return s
}

// create makes a container with those limits that runs args.
func (s *suite) create(t *testing.T, r *limits, args ...string) string {
	t.Helper()
	s.made++
	conf := node.Container(fmt.Sprint("c", s.made), busybox, args...)
	conf.Linux.Resources = r
	resp, err := s.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: s.podID, Config: conf, SandboxConfig: s.pod})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetContainerId()
}

func (s *suite) start(t *testing.T, id string) {
	t.Helper()
	if _, err := s.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
}

func (s *suite) run(t *testing.T, r *limits, args ...string) string {
	t.Helper()
	id := s.create(t, r, args...)
	s.start(t, id)
	return id
}

func (s *suite) update(t *testing.T, id string, r *limits) error {
	t.Helper()
	_, err := s.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: r})
	return err
}

func (s *suite) status(t *testing.T, id string) *runtimeapi.ContainerStatusResponse {
	t.Helper()
	resp, err := s.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// reports expects a container's status to say that it has those limits.
func (s *suite) reports(t *testing.T, when, id string, want *limits) {
	t.Helper()
	if got := s.status(t, id).GetStatus().GetResources().GetLinux(); !proto.Equal(got, want) {
		t.Errorf("status %s: %v, want %v", when, got, want)
	}
}

// exec runs a command in a container and returns what it wrote, trimmed.
func (s *suite) exec(t *testing.T, id, script string) string {
	t.Helper()
	resp, err := s.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-ec", script}, Timeout: 60})
	if err != nil || resp.GetExitCode() != 0 {
		t.Errorf("%s: %v, code %d: %s", script, err, resp.GetExitCode(), resp.GetStderr())
	}
	return strings.TrimSpace(string(resp.GetStdout()))
}

// scoresBeside expects a new command to have an oom_score_adj. Another runtime's program
// starts it with the container's first, and the shim sees to it a moment later.
func (s *suite) scoresBeside(t *testing.T, id string, want int64) {
	t.Helper()
	script := "cat /proc/self/oom_score_adj"
	if os.Getenv("BERTH_TEST_RUNTIME") != "" {
		script = fmt.Sprintf("for i in $(seq 1000); do read s < /proc/$$/oom_score_adj; [ $s = %d ] && break; sleep 0.01; done; echo $s", want)
	}
	if got := s.exec(t, id, script); got != strconv.FormatInt(want, 10) {
		t.Errorf("a command beside it: oom_score_adj %s, want %d", got, want)
	}
}

// ended waits for a container's end.
func (s *suite) ended(t *testing.T, id string) *runtimeapi.ContainerStatus {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		st := s.status(t, id).GetStatus()
		if st.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED {
			return st
		}
		if time.Now().After(deadline) {
			t.Fatalf("container %s does not end", id)
		}
	}
}

// restart ends the daemon and starts it again; containers go on.
func (s *suite) restart(t *testing.T) {
	t.Helper()
	if err := s.Node.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.Node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// hugeTLB tells whether huge pages can be limited.
func hugeTLB() bool {
	if !node.OnV2() {
		return exists("/sys/fs/cgroup/hugetlb")
	}
	data, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	return err == nil && strings.Contains(string(data), "hugetlb")
}

// lowestScore is the lowest oom_score_adj that we may give: any with
// CAP_SYS_RESOURCE, our own without.
func lowestScore(t *testing.T) int64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "CapEff:")
	text, _, _ := strings.Cut(rest, "\n")
	caps, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	const sysResource = 24
	if caps&(1<<sysResource) != 0 {
		return -1000
	}
	return number(t, "/proc/self/oom_score_adj")
}

// number reads a file of one number.
func number(t *testing.T, path string) int64 {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A file of a container's cgroup, "controller/name" on v1, and what it says on each
// version. A version whose value is empty has none, or none that is known here.
type file struct{ v1, v1Value, v2, v2Value string }

func (f file) want() string {
	if node.OnV2() {
		return f.v2Value
	}
	return f.v1Value
}

// path is where the file is for the container id; of the pod without one.
func (s *suite) path(f file, id string) string {
	if node.OnV2() {
		return s.cgroup.File("", f.v2, id)
	}
	controller, name, _ := strings.Cut(f.v1, "/")
	return s.cgroup.File(controller, name, id)
}

func (s *suite) checkFiles(t *testing.T, when, id string, files []file) {
	t.Helper()
	for _, f := range files {
		if f.want() == "" || !exists(s.path(f, id)) && strings.Contains(f.v1, "memsw") {
			continue
		}
		data, err := os.ReadFile(s.path(f, id))
		if got := strings.TrimSpace(string(data)); err != nil || got != f.want() {
			t.Errorf("%s: %s: %q, want %q (%v)", when, s.path(f, id), got, f.want(), err)
		}
	}
}

// reload has systemd read everything anew, and write what it knows of its units.
func (s *suite) reload(t *testing.T) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "systemctl", "daemon-reload").CombinedOutput(); err != nil {
		t.Fatalf("systemctl daemon-reload: %v: %s", err, out)
	}
}

// allFiles is what the container's cgroups say of limits.
func (s *suite) allFiles(t *testing.T, id string) string {
	t.Helper()
	var all strings.Builder
	for _, pattern := range []string{"cpu/%s/cpu.shares", "cpu/%s/cpu.cfs_*_us", "cpuset/%s/cpuset.cpus", "cpuset/%s/cpuset.mems",
		"memory/%s/memory*.limit_in_bytes", "%s/*.max", "%s/cpu.weight", "%s/cpuset.*"} {
		found, err := filepath.Glob("/sys/fs/cgroup/" + fmt.Sprintf(pattern, s.cgroup.Path(id)))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&all, "%s %s\n", filepath.Base(f), strings.TrimSpace(string(data)))
		}
	}
	return all.String()
}
