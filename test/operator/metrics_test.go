package operator

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// TestMetrics: a daemon's figures are about what it does, on a socket that is root's alone, and
// again after it was killed.
func TestMetrics(t *testing.T) {
	dir, err := os.MkdirTemp("/run", "berth-metrics-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "sub", "m.sock")
	f := node.Open(t, "[metrics]\naddress = \"unix://"+socket+"\"\n", nil)
	ctx := t.Context()
	for _, part := range []struct {
		path string
		mode os.FileMode
	}{{filepath.Dir(socket), os.ModeDir | 0o700}, {socket, os.ModeSocket | 0o600}} {
		if fi, err := os.Lstat(part.path); err != nil || fi.Mode() != part.mode {
			t.Errorf("%s: %v, %v", part.path, fi.Mode(), err)
		}
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	scrape := func() string {
		t.Helper()
		resp, err := client.Get("http://berth/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s, %v: %s", resp.Status, err, text)
		}
		return string(text)
	}
	want := func(text string, lines ...string) {
		t.Helper()
		for _, l := range lines {
			if !strings.Contains(text, "\n"+l) {
				t.Errorf("no %q in\n%s", l, text)
			}
		}
	}
	if _, err := f.Pull(ctx, tick); err != nil {
		t.Fatal(err)
	}
	pod := node.Pod("p", f.Logs)
	podID, err := f.RunPod(ctx, pod)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Run(ctx, podID, pod, node.Container("tick", tick)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: podID, Config: node.Container("none", "docker.io/library/none:1"), SandboxConfig: pod}); err == nil {
		t.Error("a container without an image")
	}
	text := scrape()
	want(text, "berth_build_info{", `berth_pods{state="ready"} 1`, `berth_pods{state="notready"} 0`, `berth_containers{state="running"} 1`, "berth_images 1\n", "berth_pulls_running 0",
		`berth_ready{condition="RuntimeReady"} 1`, `berth_ready{condition="NetworkReady"} 1`, `berth_pulls_total{result="pulled"} 1`, "berth_pull_seconds_count 1", "berth_addresses_owed 0",
		`berth_cri_seconds_count{code="OK",method="RunPodSandbox"} 1`, `berth_cri_seconds_count{code="NotFound",method="CreateContainer"} 1`, `berth_cri_calls{method="RunPodSandbox"} 0`,
		`berth_stage_seconds_count{object="pod",stage="network"} 1`, `berth_stage_seconds_count{object="container",stage="start"} 1`, `berth_stage_failures_total{object="container",stage="image"} 1`)
	for _, secret := range []string{podID, "library", "tick"} {
		if strings.Contains(text, secret) {
			t.Errorf("%q is in the figures", secret)
		}
	}
	f.Node.Kill()
	if err := f.Node.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := f.RemoveAll(ctx); err != nil {
		t.Fatal(err)
	}
	want(scrape(), `berth_pods{state="ready"} 0`, `berth_containers{state="running"} 0`, "berth_images 0\n", `berth_stage_seconds_count{object="pod",stage="undo files"} 1`,
		`berth_stage_seconds_count{object="container",stage="undo task"} 1`, `berth_pulls_total{result="pulled"} 0`)
	if err := f.Node.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
	if err := f.Node.Start(ctx); err != nil {
		t.Fatal(err)
	}
	f.Done(t)
}
