package operator

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/imageservice/registry/registrytest"
	"github.com/berthd/berth/test/node"
)

const (
	web  = "docker.io/library/web:latest"
	tick = "docker.io/library/tick:latest"
)

// berth runs the operator's program and returns what it prints.
func berth(t *testing.T, f *node.Fresh, args ...string) string {
	t.Helper()
	program := filepath.Join(filepath.Dir(f.Node.Command()[0]), "berth")
	cmd := exec.CommandContext(t.Context(), program, append([]string{"--socket", f.Node.Socket}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("berth %v: %v: %s%s", args, err, out, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// TestRoundTrip: an image goes to a file and comes back as the same one, and runs.
func TestRoundTrip(t *testing.T) {
	f := node.Open(t, "", nil)
	ctx := t.Context()
	for _, format := range []string{"oci", "docker"} {
		t.Run(format, func(t *testing.T) {
			id := berth(t, f, "image", "pull", tick)
			file := filepath.Join(f.World.Dir, format+".tar")
			berth(t, f, "image", "export", "--format", format, tick, file)
			if out := berth(t, f, "image", "rm", tick); !strings.Contains(out, "removed "+tick) {
				t.Error(out)
			}
			// A daemon that was killed in the middle of things is no hindrance.
			f.Node.Kill()
			if err := f.Node.Start(ctx); err != nil {
				t.Fatal(err)
			}
			if out := berth(t, f, "image", "import", file); !strings.Contains(out, "imported "+tick) {
				t.Error(out)
			}
			if out := berth(t, f, "image", "verify"); !strings.HasSuffix(out, "ok") {
				t.Error(out)
			}
			pod := node.Pod(format, f.Logs)
			podID, err := f.RunPod(ctx, pod)
			if err != nil {
				t.Fatal(err)
			}
			container, err := f.Run(ctx, podID, pod, node.Container("tick", tick))
			if err != nil {
				t.Fatal(err)
			}
			status, err := f.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: container})
			if err != nil || status.GetStatus().GetImageId() != id {
				t.Errorf("runs from %v, not %s: %v", status.GetStatus().GetImageId(), id, err)
			}
			var list struct {
				Images []struct {
					ID         string
					Containers []string
				}
			}
			if out := berth(t, f, "image", "ls", "-o", "json"); json.Unmarshal([]byte(out), &list) != nil || len(list.Images) != 1 || list.Images[0].ID != id || len(list.Images[0].Containers) != 1 || list.Images[0].Containers[0] != container {
				t.Errorf("%s", out)
			}
			if out := berth(t, f, "image", "rm", "--unused"); out != "" {
				t.Errorf("an image in use: %s", out)
			}
			if err := f.RemovePod(ctx, podID); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(file); err != nil {
				t.Error(err)
			}
		})
	}
	f.Done(t)
}

// TestPushAndPull: an image is pushed under a new name and pulled by it.
func TestPushAndPull(t *testing.T) {
	f := node.Running(t, "", nil)
	id := berth(t, f, "image", "pull", web)
	reg := registrytest.New() // that of the test images is read-only
	t.Cleanup(reg.Close)
	copied := reg.Host() + "/mine/copy:2"
	if out := berth(t, f, "image", "push", web, copied); !strings.HasPrefix(out, copied+" sha256:") {
		t.Error(out)
	}
	berth(t, f, "image", "rm", web)
	if got := berth(t, f, "image", "pull", copied); got != id {
		t.Errorf("%s, not %s", got, id)
	}
}
