package upgrade

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

const (
	tick    = "docker.io/library/tick:latest"
	busybox = "docker.io/library/busybox:latest"
	within  = 30 * time.Second
)

// A suite is a node whose programs are in a folder of its own.
type suite struct {
	*node.Fresh
	bin string
}

// open starts a node with what first gives; extra is added to the settings' table shim.
func open(t *testing.T, extra string, first func(*node.World) release) *suite {
	t.Helper()
	s := &suite{}
	s.Fresh = node.Open(t, extra, func(w *node.World) {
		s.bin = filepath.Join(w.Dir, "bin")
		if err := os.MkdirAll(s.bin, 0o755); err != nil {
			t.Fatal(err)
		}
		s.install(t, first(w))
		t.Setenv("BERTH_BIN", s.bin)
	})
	for _, image := range []string{tick, busybox} {
		if _, err := s.Pull(t.Context(), image); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// A life is a container that nothing may happen to.
type life struct {
	name, pod, id string
	log           string
	pid           int
	began         string // its first process, in clock ticks
	started       int64
	counts        bool // it logs the numbers from 1 on, and exits with 7 at SIGUSR1
	lossy         bool // its log may lack some
}

// pod runs a pod with a container that counts and one that stands still.
func (s *suite) pod(t *testing.T, name string) []*life {
	t.Helper()
	logs := filepath.Join(s.Logs, name)
	if err := os.MkdirAll(logs, 0o755); err != nil {
		t.Fatal(err)
	}
	pod := node.Pod(name, logs)
	id, err := s.RunPod(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	var lives []*life
	for _, conf := range []*runtimeapi.ContainerConfig{node.Container("tick", tick, "/tick", "2ms"), node.Container("still", busybox, "sleep", "100000")} {
		c, err := s.Run(t.Context(), id, pod, conf)
		if err != nil {
			t.Fatal(err)
		}
		l := &life{name: name + "/" + conf.Metadata.Name, pod: id, id: c, log: filepath.Join(logs, conf.LogPath), counts: conf.Metadata.Name == "tick"}
		status, pid := s.status(t, c)
		l.pid, l.started, l.began = pid, status.GetStartedAt(), begin(t, pid)
		lives = append(lives, l)
	}
	return lives
}

func (s *suite) status(t *testing.T, id string) (*runtimeapi.ContainerStatus, int) {
	t.Helper()
	resp, err := s.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := strconv.Atoi(resp.GetInfo()["pid"]) // none when it has ended
	return resp.GetStatus(), pid
}

// begin is when a process began, so that another one with its ID is not taken for it.
func begin(t *testing.T, pid int) string {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[19]
}

// restart ends berthd and starts the one that is installed now.
func (s *suite) restart(t *testing.T) {
	t.Helper()
	if err := s.Node.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.Node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// undisturbed expects the same processes, that can be asked and used, and logs that go on.
func (s *suite) undisturbed(t *testing.T, lives []*life) {
	t.Helper()
	for _, l := range lives {
		status, pid := s.status(t, l.id)
		if status.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING || pid != l.pid || status.GetStartedAt() != l.started || begin(t, l.pid) != l.began {
			t.Errorf("%s: %v, process %d of %s started at %d; it was %d of %s started at %d",
				l.name, status.GetState(), pid, begin(t, pid), status.GetStartedAt(), l.pid, l.began, l.started)
		}
		if l.counts {
			n := len(l.lines(t))
			eventually(t, l.name+": the log grows", func() bool { return len(l.lines(t)) > n+20 })
			continue
		}
		resp, err := s.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: l.id, Cmd: []string{"sh", "-c", "echo here; exit 4"}, Timeout: 20})
		if err != nil || string(resp.GetStdout()) != "here\n" || resp.GetExitCode() != 4 {
			t.Errorf("%s: exec: %v, %v", l.name, resp, err)
		}
	}
}

// end ends all, and expects their exit codes and whole logs.
func (s *suite) end(t *testing.T, lives []*life) {
	t.Helper()
	for _, l := range lives {
		signal, want := syscall.SIGKILL, int32(137)
		if l.counts {
			signal, want = syscall.SIGUSR1, 7
		}
		if err := syscall.Kill(l.pid, signal); err != nil {
			t.Fatal(err)
		}
		var status *runtimeapi.ContainerStatus
		eventually(t, l.name+" ends", func() bool {
			status, _ = s.status(t, l.id)
			return status.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED
		})
		if status.GetExitCode() != want || status.GetFinishedAt() < status.GetStartedAt() {
			t.Errorf("%s: exited with %d at %d, want %d", l.name, status.GetExitCode(), status.GetFinishedAt(), want)
		}
		for i, n := range l.lines(t) {
			if n != i+1 && !l.lossy {
				t.Errorf("%s: line %d says %d", l.name, i+1, n)
				break
			}
		}
	}
}

// lines are the numbers in a log.
func (l *life) lines(t *testing.T) (out []int) {
	t.Helper()
	if !l.counts {
		return nil
	}
	data, err := os.ReadFile(l.log)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for line := range strings.Lines(text[:strings.LastIndexByte(text, '\n')+1]) {
		f := strings.Fields(line)
		if len(f) != 4 || f[1] != "stdout" || f[2] != "F" {
			t.Fatalf("%s: line %q is not of the CRI's log format", l.log, line)
		}
		n, err := strconv.Atoi(f[3])
		if err != nil {
			t.Fatalf("%s: line %q: %v", l.log, line, err)
		}
		out = append(out, n)
	}
	return out
}

// eventually asks again until it is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(node.Patience(within)); !so(); {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}
