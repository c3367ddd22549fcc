package main

import (
	"os"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// TestClock sets the clock an hour forward, then two back, under a running pod. It is only for a
// machine of its own, which says so by BERTH_CLOCK.
func TestClock(t *testing.T) {
	if os.Getenv("BERTH_CLOCK") == "" {
		t.Skip("sets the machine's clock; go run ./test/vm run clock does it in a virtual machine")
	}
	began, wall := time.Now(), time.Now().Round(0)
	t.Cleanup(func() { // as if nothing had been
		if err := jump(time.Until(wall.Add(time.Since(began)))); err != nil {
			t.Error(err)
		}
	})
	f := node.Open(t, "", nil)
	if _, err := f.Pull(t.Context(), busybox); err != nil {
		t.Fatal(err)
	}
	for _, by := range []time.Duration{time.Hour, -2 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) { clockJumps(t, f, by) })
	}
	f.Done(t)
}

// clockJumps has the clock jump while a container runs: a stop's timeout and a command's are still
// what they were, Status stays ready, its end is known, and the next pod starts.
func clockJumps(t *testing.T, f *node.Fresh, by time.Duration) {
	pod := node.Pod("clock", f.Logs)
	id, err := f.RunPod(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	container, err := f.Run(t.Context(), id, pod, node.Container("c", busybox, "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done"))
	if err != nil {
		t.Fatal(err)
	}
	exec := make(chan error, 1)
	go func() { // across the jump
		_, err := f.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: container, Cmd: []string{"sleep", "2"}, Timeout: 300})
		exec <- err
	}()
	if err := jump(by); err != nil {
		t.Fatal(err)
	}
	if err := <-exec; err != nil {
		t.Errorf("a command across the jump: %v", err)
	}
	resp, err := f.Status(t.Context(), &runtimeapi.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range resp.GetStatus().GetConditions() {
		if !c.GetStatus() {
			t.Errorf("after the jump: %v", c)
		}
	}
	if _, err := f.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: container, Timeout: 300}); err != nil {
		t.Errorf("stop: %v", err)
	}
	s, err := f.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: container})
	if err != nil {
		t.Fatal(err)
	}
	if c := s.GetStatus(); c.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || c.GetExitCode() != 3 || c.GetStartedAt() > c.GetFinishedAt() {
		t.Errorf("its end: %v, code %d, from %d to %d", c.GetState(), c.GetExitCode(), c.GetStartedAt(), c.GetFinishedAt())
	}
	if err := f.RemovePod(t.Context(), id); err != nil {
		t.Error(err)
	}
}
