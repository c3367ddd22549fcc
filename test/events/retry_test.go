package events

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// An answer is an ID, or why there is none.
type answer struct {
	id  string
	err error
}

// goRun runs a pod in the background.
func (s *suite) goRun(ctx context.Context, pod *runtimeapi.PodSandboxConfig) <-chan answer {
	out := make(chan answer, 1)
	go func() {
		id, err := s.RunPod(ctx, pod)
		out <- answer{id, err}
	}()
	return out
}

// only expects that pod, ready, and no other, on record or in the network.
func (s *suite) only(t *testing.T, id string) {
	t.Helper()
	if list := s.listed(t); len(list) != 1 || list[id].GetState() != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Errorf("pods %v, want %s", list, id)
	}
	// What the daemon before this one left goes in the background.
	eventually(t, "one pod on record", func() bool { return len(s.records(t)) == 1 })
	if r := s.records(t); filepath.Base(r[0]) != id {
		t.Errorf("on record: %v, want %s", r, id)
	}
	eventually(t, "one address", func() bool { return len(s.leases(t)) == 1 })
	eventually(t, "one namespace", func() bool {
		pins, err := filepath.Glob(filepath.Join(s.Node.State, "netns", "????????????????*"))
		return err == nil && len(pins) == 1 && filepath.Base(pins[0]) == id
	})
}

// records are the folders of the pods on record.
func (s *suite) records(t *testing.T) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(s.Node.Root, "pods", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestRetryOfRunPodSandbox: a creation whose client's deadline has passed goes on;
// two who ask again at once get its pod, and so does who asks after that.
func TestRetryOfRunPodSandbox(t *testing.T) {
	s := open(t)
	pod := node.Pod("retried", s.Logs)
	s.bridge.set(t, "hold-retried")
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	first := <-s.goRun(short, pod)
	if status.Code(first.err) != codes.DeadlineExceeded {
		t.Errorf("in 300 ms: %v", first)
	}
	s.bridge.called(t, "add-retried")
	during := s.records(t)
	second, third := s.goRun(t.Context(), pod), s.goRun(t.Context(), pod)
	s.bridge.clear(t, "hold-retried")
	a, b := <-second, <-third
	if a.err != nil || b.err != nil || a.id != b.id {
		t.Fatalf("asked again: %v and %v", a, b)
	}
	if len(during) != 1 || filepath.Base(during[0]) != a.id {
		t.Errorf("under way was %v, and the pod is %s", during, a.id)
	}
	if id := s.run(t, pod); id != a.id {
		t.Errorf("asked once more: %s", id)
	}
	s.only(t, a.id)
	s.done(t)
}

// TestRetryOfCreateContainer: whenever a client's deadline passes, the next call
// gives the one container, which starts.
func TestRetryOfCreateContainer(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	pod := node.Pod("creates", s.Logs)
	podID := s.run(t, pod)
	n := 0
	for limit := time.Millisecond; limit <= 128*time.Millisecond; limit *= 2 {
		n++
		req := &runtimeapi.CreateContainerRequest{PodSandboxId: podID, SandboxConfig: pod,
			Config: node.Container(fmt.Sprintf("c%d", n), busybox, "sleep", "1000")}
		short, cancel := context.WithTimeout(ctx, limit)
		_, early := s.CreateContainer(short, req)
		cancel()
		if c := status.Code(early); c != codes.OK && c != codes.DeadlineExceeded {
			t.Errorf("within %v: %v", limit, early)
		}
		var wg sync.WaitGroup
		ids := make([]string, 3)
		for i := range ids {
			wg.Go(func() {
				resp, err := s.CreateContainer(ctx, req)
				if err != nil {
					t.Error(err)
				}
				ids[i] = resp.GetContainerId()
			})
		}
		wg.Wait()
		list, err := s.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
		if err != nil || len(list.GetContainers()) != n || ids[0] == "" || ids[1] != ids[0] || ids[2] != ids[0] {
			t.Errorf("after %v (%v): %v, %v; %d listed, want %d", limit, early, ids, err, len(list.GetContainers()), n)
		}
		if _, err := s.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: ids[0]}); err != nil {
			t.Error(err)
		}
	}
	s.done(t)
}

// TestShorterStop: a second StopContainer with a shorter timeout counts for both,
// also when the first one's client has gone; the kill comes then and not before.
func TestShorterStop(t *testing.T) {
	s := open(t)
	pod := node.Pod("stops", s.Logs)
	podID := s.run(t, pod)
	for name, gone := range map[string]bool{"waits": false, "gone": true} {
		t.Run(name, func(t *testing.T) {
			id := s.start(t, podID, pod, name, deaf)
			stop := func(ctx context.Context, seconds int64) <-chan error {
				out := make(chan error, 1)
				go func() {
					_, err := s.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: seconds})
					out <- err
				}()
				return out
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			if gone {
				ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
			}
			defer cancel()
			first := stop(ctx, 60)
			if gone {
				if err := <-first; status.Code(err) != codes.DeadlineExceeded {
					t.Errorf("the first: %v", err)
				}
			}
			begin := time.Now()
			if err := <-stop(t.Context(), 1); err != nil {
				t.Error(err)
			}
			took := time.Since(begin)
			if !gone {
				if err := <-first; err != nil {
					t.Errorf("the first: %v", err)
				}
			}
			both := time.Since(begin)
			resp, err := s.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
			st := resp.GetStatus()
			if err != nil || st.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || st.GetExitCode() != 137 {
				t.Errorf("status %v, %v", st, err)
			}
			if killed := time.Unix(0, st.GetFinishedAt()).Sub(begin); killed < time.Second {
				t.Errorf("killed after %v", killed)
			}
			if both > 30*time.Second {
				t.Errorf("took %v and %v", took, both)
			}
			t.Logf("the second returned after %v, both after %v", took.Round(time.Millisecond), both.Round(time.Millisecond))
		})
	}
	s.done(t)
}

// TestManyStopsAndRemovals: the same thing stopped and removed by many at once.
func TestManyStopsAndRemovals(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	for round, together := range []bool{false, true} {
		pod := node.Pod(fmt.Sprintf("many%d", round), s.Logs)
		podID := s.run(t, pod)
		id := s.start(t, podID, pod, "c", deaf)
		kinds := []func() error{
			func() error {
				_, err := s.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id})
				return err
			},
			func() error {
				_, err := s.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
				return err
			},
			func() error {
				_, err := s.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: podID})
				return err
			},
			func() error {
				_, err := s.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: podID})
				return err
			},
		}
		var wg sync.WaitGroup
		for i, call := range kinds {
			for range 20 {
				wg.Go(func() {
					if err := call(); err != nil {
						t.Errorf("call %d: %v", i, err)
					}
				})
			}
			if !together {
				wg.Wait()
			}
		}
		wg.Wait()
		for i, call := range kinds {
			if err := call(); err != nil {
				t.Errorf("call %d, of what is gone: %v", i, err)
			}
		}
		if list := s.listed(t); len(list) > 0 {
			t.Errorf("left: %v", list)
		}
	}
	s.done(t)
}

// TestRetryAfterKill: the daemon is killed while it makes a pod, then while it makes
// a container. The retry gives a fresh pod, and nothing is left of the first.
func TestRetryAfterKill(t *testing.T) {
	s := open(t)
	pod := node.Pod("killed", s.Logs)
	s.bridge.set(t, "hold-killed")
	first := s.goRun(t.Context(), pod)
	s.bridge.called(t, "add-killed")
	before := s.records(t)
	s.Node.Kill()
	if a := <-first; status.Code(a.err) != codes.Unavailable {
		t.Errorf("the first: %v", a)
	}
	s.bridge.clear(t, "hold-killed")
	if err := s.Node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	id := s.run(t, pod)
	if len(before) != 1 || filepath.Base(before[0]) == id {
		t.Errorf("on record was %v, and the pod is %s", before, id)
	}
	s.only(t, id)

	for n := range 5 {
		s.killWhileCreating(t, id, pod, n)
	}
	s.only(t, id)
	s.done(t)
}

// killWhileCreating kills the daemon at some point of a container's creation, at
// another one for each n. The retry gives one container, which starts.
func (s *suite) killWhileCreating(t *testing.T, podID string, pod *runtimeapi.PodSandboxConfig, n int) {
	t.Helper()
	ctx := t.Context()
	req := &runtimeapi.CreateContainerRequest{PodSandboxId: podID, SandboxConfig: pod,
		Config: node.Container(fmt.Sprintf("c%d", n), busybox, "sleep", "1000")}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = s.CreateContainer(ctx, req) // the daemon dies meanwhile, or just after
	}()
	folder := filepath.Join(s.Node.Root, "pods", podID, "containers")
	eventually(t, "the container is on record", func() bool {
		list, err := os.ReadDir(folder)
		return err == nil && len(list) > n
	})
	time.Sleep(time.Duration(n) * 8 * time.Millisecond) // not to wait for something: to strike elsewhere each time
	s.Node.Kill()
	<-done
	if err := s.Node.Start(ctx); err != nil {
		t.Fatal(err)
	}
	resp, err := s.CreateContainer(ctx, req)
	if err != nil {
		t.Fatalf("the retry: %v", err)
	}
	if _, err := s.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: resp.GetContainerId()}); err != nil {
		t.Errorf("round %d: %v", n, err)
	}
	list, err := s.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil || len(list.GetContainers()) != n+1 {
		t.Errorf("containers %v, %v", list.GetContainers(), err)
	}
	for _, pattern := range []string{filepath.Join(folder, "*.json"), filepath.Join(s.Node.State, "containers", "*")} {
		eventually(t, "nothing of the first is left", func() bool {
			list, err := filepath.Glob(pattern)
			return err == nil && len(list) == n+1
		})
	}
}
