package badinput

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// TestOddLayers runs an image that is unusual and right: whiteouts, opaque
// directories, files that become directories, hard links, device nodes and long
// names, in layers of every compression. Its command looks at the result.
func TestOddLayers(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	const odd = "docker.io/library/whiteouts:latest"
	if _, err := s.Pull(ctx, odd); err != nil {
		t.Fatal(err)
	}
	pod := node.Pod("odd", s.logs)
	id, err := s.RunPod(ctx, pod)
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Run(ctx, id, pod, node.Container("check", odd))
	if err != nil {
		t.Fatal(err)
	}
	var status *runtimeapi.ContainerStatus
	for end := time.Now().Add(20 * time.Second); status.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED; {
		resp, err := s.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c})
		if err != nil {
			t.Fatal(err)
		}
		status = resp.GetStatus()
		if time.Now().After(end) {
			t.Fatalf("still %v", status.GetState())
		}
		select {
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	log, err := os.ReadFile(filepath.Join(s.logs, "check.log"))
	if err != nil || status.GetExitCode() != 0 || !strings.Contains(string(log), "layers ok") {
		t.Errorf("code %d, %v: %s", status.GetExitCode(), err, log)
	}
	s.close(t)
}
