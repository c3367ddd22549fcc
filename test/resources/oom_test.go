package resources

import (
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/opencontainers/cgroups"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// TestOOMKilled: the reason is OOMKilled when want of memory ended the container, and
// never because a SIGKILL did.
func TestOOMKilled(t *testing.T) {
	s := open(t)
	small := &limits{MemoryLimitInBytes: 16 * mib}
	eat := func(t *testing.T, id string) {
		t.Helper()
		resp, err := s.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"tail", "/dev/zero"}, Timeout: 60})
		if err != nil || resp.GetExitCode() != 137 {
			t.Errorf("a command that eats: %v, %v", resp, err)
		}
	}
	stop := func(t *testing.T, id string) {
		t.Helper()
		if _, err := s.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name   string
		args   []string
		do     func(t *testing.T, id string)
		code   int32
		reason string
	}{
		{"one process", []string{"tail", "/dev/zero"}, nil, 137, "OOMKilled"},
		{"a child whose end is its parent's", []string{"sh", "-c", "tail /dev/zero; exit $?"}, nil, 137, "OOMKilled"},
		{"a child, and its parent goes on", []string{"sh", "-c", "tail /dev/zero; exit 3"}, nil, 3, "Error"},
		{"a child, and all ends well", []string{"sh", "-c", "tail /dev/zero; exit 0"}, nil, 0, "Completed"},
		{"137 of its own", []string{"sh", "-c", "exit 137"}, nil, 137, "Error"},
		{"a command beside it, then a stop", []string{"sleep", "100000"}, func(t *testing.T, id string) { eat(t, id); stop(t, id) }, 137, "Error"},
		{"a stop", []string{"sleep", "100000"}, stop, 137, "Error"},
		{"a SIGKILL from outside", []string{"sleep", "100000"}, s.killFromOutside, 137, "Error"},
		{"a command beside it, then a SIGKILL from outside", []string{"sleep", "100000"}, func(t *testing.T, id string) { eat(t, id); s.killFromOutside(t, id) }, 137, "Error"},
		{"a limit that an update brought", []string{"sh", "-c", "read _ < /dev/shm/go; exec tail /dev/zero"}, func(t *testing.T, id string) {
			if err := s.update(t, id, &limits{MemoryLimitInBytes: 8 * mib, MemorySwapLimitInBytes: 8 * mib}); err != nil {
				t.Fatal(err)
			}
			s.exec(t, id, "echo > /dev/shm/go")
		}, 137, "OOMKilled"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fifo := s.run(t, small, "sh", "-c", "test -p /dev/shm/go || mkfifo /dev/shm/go") // the pod's shared memory
			s.ended(t, fifo)
			id := s.run(t, small, tt.args...)
			if tt.do != nil {
				tt.do(t, id)
			}
			if st := s.ended(t, id); st.GetExitCode() != tt.code || st.GetReason() != tt.reason {
				t.Errorf("code %d, reason %s (%s), want %d, %s", st.GetExitCode(), st.GetReason(), st.GetMessage(), tt.code, tt.reason)
			}
		})
	}
}

func (s *suite) killFromOutside(t *testing.T, id string) {
	t.Helper()
	pid, err := strconv.Atoi(s.status(t, id).GetInfo()["pid"])
	if err != nil {
		t.Fatal(err)
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
}

// TestOOMKilledByPodLimit: the limit may be the pod's, which kubelet sets. The
// container that had to die is OOM-killed, also for the next daemon, the other not.
func TestOOMKilledByPodLimit(t *testing.T) {
	s := open(t)
	calm := s.run(t, nil, "sleep", "100000")
	s.cgroup.Limit(t, cgroups.Resources{Memory: 32 * mib}) // there is no swap
	hog := s.run(t, &limits{OomScoreAdj: 1000}, "tail", "/dev/zero")
	check := func(when string) {
		t.Helper()
		if st := s.ended(t, hog); st.GetExitCode() != 137 || st.GetReason() != "OOMKilled" {
			t.Errorf("%s: code %d, reason %s", when, st.GetExitCode(), st.GetReason())
		}
		if st := s.status(t, calm).GetStatus(); st.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Errorf("%s: the other: %v", when, st)
		}
	}
	check("at once")
	s.restart(t)
	check("after a restart")
	s.killFromOutside(t, calm)
	reasons := []string{"Error"}
	if node.SystemdCgroup() { // which may have removed the counter before the shim looks: docs/operations.md
		reasons = append(reasons, "OOMKilled")
	}
	if st := s.ended(t, calm); st.GetExitCode() != 137 || !slices.Contains(reasons, st.GetReason()) {
		t.Errorf("the other: code %d, reason %s", st.GetExitCode(), st.GetReason())
	}
}
