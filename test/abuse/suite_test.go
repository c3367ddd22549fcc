package abuse

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/operator/api"
	"github.com/berthd/berth/test/node"
)

const busybox = "docker.io/library/busybox:latest"

// times is how often something is done: small, or, with BERTH_ABUSE set, big.
func times(small, big int) int {
	if os.Getenv("BERTH_ABUSE") != "" {
		return big
	}
	return small
}

// A suite is a node with a container.
type suite struct {
	*node.Fresh
	id string // of the container
}

func open(t *testing.T) *suite {
	t.Helper()
	s := &suite{Fresh: node.Running(t, "", nil)}
	if _, err := s.Pull(t.Context(), busybox); err != nil {
		t.Fatal(err)
	}
	s.id = s.start(t, "quiet", "sleep 100000")
	return s
}

// start runs a script in a pod of its own.
func (s *suite) start(t *testing.T, name, script string) string {
	t.Helper()
	pod := node.Pod(name, s.Logs)
	podID, err := s.RunPod(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.Run(t.Context(), podID, pod, node.Container(name, busybox, "sh", "-c", script))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// A use is what berthd and its shims take.
type use struct {
	goroutines, descriptors, shimDescriptors int
	memory, shimMemory                       int // resident, MiB
}

func (u use) String() string {
	return fmt.Sprintf("goroutines %d, descriptors %d, memory %d MiB; shims: descriptors %d, memory %d MiB", u.goroutines, u.descriptors, u.memory, u.shimDescriptors, u.shimMemory)
}

// now looks. The goroutines are those of a dump.
func (s *suite) now(t *testing.T) (u use) {
	t.Helper()
	resp, err := api.NewNodeClient(s.Conn()).Dump(t.Context(), &api.DumpRequest{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(resp.GetPath())
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "\ngoroutines ")
	n, _, _ := strings.Cut(rest, ",")
	if u.goroutines, err = strconv.Atoi(n); err != nil {
		t.Fatal(err)
	}
	u.descriptors, u.memory = of(t, s.Node.PID())
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		line, _ := os.ReadFile(p) // it may be gone
		if args := strings.Split(string(line), "\x00"); len(args) > 3 && args[1] == "serve" && args[3] == s.Node.State {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			if err != nil {
				t.Fatal(err)
			}
			d, m := of(t, pid)
			u.shimDescriptors, u.shimMemory = u.shimDescriptors+d, u.shimMemory+m
		}
	}
	return u
}

// of is a process's descriptors and resident memory.
func of(t *testing.T, pid int) (descriptors, memory int) {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "\nVmRSS:")
	if _, err := fmt.Sscan(rest, &memory); err != nil {
		t.Fatal(err)
	}
	return len(fds), memory >> 10
}

// Bounds of what may be more afterwards than before. Memory of Go's that is free goes back to
// the system late, so a heap that was large once counts.
const (
	slackGoroutines  = 10
	slackDescriptors = 5
	slackMemory      = 96 // MiB
)

// flat runs an abuse, and expects berthd and its shims to be as before.
func (s *suite) flat(t *testing.T, abuse func(t *testing.T)) {
	t.Helper()
	before := s.now(t)
	abuse(t)
	var after use
	node.Eventually(t, "as before", func() bool {
		after = s.now(t)
		return after.goroutines <= before.goroutines+slackGoroutines && after.descriptors <= before.descriptors+slackDescriptors &&
			after.shimDescriptors <= before.shimDescriptors+slackDescriptors && after.memory <= before.memory+slackMemory && after.shimMemory <= before.shimMemory+slackMemory
	})
	t.Logf("before: %v", before)
	t.Logf("after:  %v", after)
}

// served has another client use the node all the while, at least once, until stop is called, which expects that
// every call of its was answered: the last one too, however short the abuse.
func (s *suite) served(t *testing.T) (stop func()) {
	t.Helper()
	other, err := s.Node.Client()
	if err != nil {
		t.Fatal(err)
	}
	stopped, done := make(chan struct{}), make(chan struct{})
	var n int
	var longest time.Duration
	go func() {
		defer close(done)
		for {
			took, err := s.use(t.Context(), other)
			if err != nil {
				t.Errorf("another client: %v", err)
			}
			n++
			longest = max(longest, took)
			select {
			case <-stopped:
				return
			default:
			}
		}
	}()
	return func() {
		close(stopped)
		<-done
		other.Close()
		t.Logf("another client: %d times, %v at most", n, longest)
	}
}

// patience is how long a client waits for an answer.
const patience = time.Minute

// use is what another client does, and how long it took.
func (s *suite) use(ctx context.Context, other *node.Client) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	_, err := other.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: s.id, Cmd: []string{"true"}, Timeout: 60})
	if err == nil {
		_, err = other.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	}
	return time.Since(began), err
}
