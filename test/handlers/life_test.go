package handlers

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// TestLife: a pod of a handler is a pod like any other, from its start to its end.
func TestLife(t *testing.T) {
	for _, path := range programs(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			s := open(t, map[string]string{"other": path})
			podID, id := s.start(t, "life", "other", "echo hello; echo oh >&2; sleep 100000 & trap 'exit 7' TERM; wait")
			eventually(t, "the log", func() bool {
				data, _ := os.ReadFile(filepath.Join(s.Logs, "life.log"))
				return strings.Contains(string(data), "stdout F hello") && strings.Contains(string(data), "stderr F oh")
			})
			s.madeBy(t, path)
			pod, err := s.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: podID})
			if err != nil || pod.GetStatus().GetRuntimeHandler() != "other" {
				t.Errorf("pod: %v, %v", pod.GetStatus().GetRuntimeHandler(), err)
			}
			s.commands(t, id)
			st, err := s.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: id})
			if err != nil || st.GetStats().GetMemory().GetWorkingSetBytes().GetValue() == 0 {
				t.Errorf("stats: %v, %v", st, err)
			}

			s.Node.Kill() // and nobody notices
			if err := s.Node.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := s.status(t, id).GetState(); got != runtimeapi.ContainerState_CONTAINER_RUNNING {
				t.Errorf("after a restart: %v", got)
			}
			s.commands(t, id)
			if _, err := s.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 30}); err != nil {
				t.Fatal(err)
			}
			if st := s.ended(t, id); st.GetExitCode() != 7 {
				t.Errorf("stopped: code %d, %s", st.GetExitCode(), st.GetReason())
			}

			s.noCommand(t)
			s.Done(t)
		})
	}
}

// TestOutOfMemory: the kernel's kill is told as one, whatever runs the container.
func TestOutOfMemory(t *testing.T) {
	for _, path := range append(programs(t), "") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			s := open(t, map[string]string{"other": path})
			s.outOfMemory(t)
			s.Done(t)
		})
	}
}

// madeBy expects a container to be on record as that program's.
func (s *suite) madeBy(t *testing.T, path string) {
	t.Helper()
	records, _ := filepath.Glob(filepath.Join(s.Node.State, "runc", "*", "runtime.json"))
	if len(records) != 1 {
		t.Fatalf("records: %v", records)
	}
	var rec struct{ Runtime string }
	data, err := os.ReadFile(records[0])
	if err == nil {
		err = json.Unmarshal(data, &rec)
	}
	if err != nil || rec.Runtime != path {
		t.Errorf("%s, %v", data, err)
	}
}

// commands runs commands in a container and expects no trace of them.
func (s *suite) commands(t *testing.T, id string) {
	t.Helper()
	if got := s.exec(t, id, "echo $((6*7)); (sleep 36100 &)"); got != "42" {
		t.Errorf("exec: %q", got)
	}
	resp, err := s.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "echo no >&2; exit 9"}, Timeout: 60})
	if err != nil || resp.GetExitCode() != 9 || string(resp.GetStderr()) != "no\n" {
		t.Errorf("exec: %v, %v", resp, err)
	}
	_, err = s.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sleep", "36101"}, Timeout: int64(node.Patience(time.Second) / time.Second)})
	if err == nil {
		t.Error("a command of no end ended")
	}
	eventually(t, "the end of all commands", func() bool {
		return !strings.Contains(processes(), "36100") && !strings.Contains(processes(), "36101")
	})
}

// processes are the command lines of the machine.
func processes() string {
	var all strings.Builder
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, l := range lines {
		data, _ := os.ReadFile(l)
		all.Write(append(data, '\n'))
	}
	return all.String()
}

// outOfMemory expects the kernel's kill to be told as one.
func (s *suite) outOfMemory(t *testing.T) {
	t.Helper()
	podID, pod, err := s.pod(t, "oom", "other")
	if err != nil {
		t.Fatal(err)
	}
	conf := node.Container("oom", busybox, "tail", "/dev/zero")
	conf.Linux.Resources.MemoryLimitInBytes = 16 << 20
	id, err := s.Run(t.Context(), podID, pod, conf)
	if err != nil {
		t.Fatal(err)
	}
	if st := s.ended(t, id); st.GetExitCode() != 137 || st.GetReason() != "OOMKilled" {
		t.Errorf("code %d, %s", st.GetExitCode(), st.GetReason())
	}
}

// noCommand expects the start of a command that is not there to say which.
func (s *suite) noCommand(t *testing.T) {
	t.Helper()
	podID, pod, err := s.pod(t, "nothing", "other")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Run(t.Context(), podID, pod, node.Container("nothing", busybox, "no-such-command")); err == nil || !strings.Contains(err.Error(), "no-such-command") {
		t.Errorf("a command that is not there: %v", err)
	} else {
		t.Log(err)
	}
}

// TestKilledShim: a container whose shim is killed goes on with the next one.
func TestKilledShim(t *testing.T) {
	for _, path := range programs(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			s := open(t, map[string]string{"other": path})
			podID, id := s.start(t, "orphan", "other", "exec sleep 36102")
			killed := shims(s.Node.State)
			for _, pid := range killed {
				if err := kill(pid); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, "another shim", func() bool {
				now := shims(s.Node.State)
				return len(now) == len(killed) && !slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(killed, pid) })
			})
			resp, err := s.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"echo", "here"}, Timeout: 20})
			if err != nil || string(resp.GetStdout()) != "here\n" {
				t.Errorf("exec: %v, %v", resp, err)
			}
			if _, err := s.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id}); err != nil {
				t.Error(err)
			}
			if st := s.ended(t, id); st.GetExitCode() != 137 {
				t.Errorf("code %d, %s", st.GetExitCode(), st.GetReason())
			}
			if err := s.RemovePod(t.Context(), podID); err != nil {
				t.Error(err)
			}
			eventually(t, "its process's end", func() bool { return !strings.Contains(processes(), "36102") })
			s.Done(t)
		})
	}
}

// TestFeatures: Status says of a handler what its program says of itself.
func TestFeatures(t *testing.T) {
	for _, path := range programs(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			s := open(t, map[string]string{"other": path})
			resp, err := s.Status(t.Context(), &runtimeapi.StatusRequest{})
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]*runtimeapi.RuntimeHandlerFeatures{}
			for _, h := range resp.GetRuntimeHandlers() {
				got[h.GetName()] = h.GetFeatures()
			}
			text, err := exec.Command(path, "features").Output()
			knows := func(word string) bool { return err == nil && strings.Contains(string(text), word) }
			builtIn, other := got[""], got["other"]
			if builtIn == nil || other == nil {
				t.Fatalf("handlers: %v", resp.GetRuntimeHandlers())
			}
			if want := knows(`"rro"`) && builtIn.GetRecursiveReadOnlyMounts(); other.GetRecursiveReadOnlyMounts() != want {
				t.Errorf("recursive_read_only_mounts: %v, want %v", other.GetRecursiveReadOnlyMounts(), want)
			}
			if want := knows(`"idmap"`) && builtIn.GetUserNamespaces(); other.GetUserNamespaces() != want {
				t.Errorf("user_namespaces: %v, want %v", other.GetUserNamespaces(), want)
			}
			t.Logf("%v; built-in: %v", other, builtIn)
			s.Done(t)
		})
	}
}
