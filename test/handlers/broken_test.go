package handlers

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// TestBroken: a handler whose program does not work fails its own pods, with words
// that say what to do, and nobody else's.
func TestBroken(t *testing.T) {
	dir := t.TempDir()
	broken := map[string]struct{ path, says string }{
		"missing": {filepath.Join(dir, "missing"), "no such file or directory; install it, or correct the path of the handler"},
		"fails":   {script(t, filepath.Join(dir, "fails"), "echo out of order >&2; exit 1"), "out of order"},
		"garbage": {script(t, filepath.Join(dir, "garbage"), "echo '{]'"), "not an OCI runtime"},
		"hangs":   {script(t, filepath.Join(dir, "hangs"), "exec sleep 36110"), "did not end within"},
	}
	paths := map[string]string{}
	for name, b := range broken {
		paths[name] = b.path
	}
	s := open(t, paths)
	for name, b := range broken {
		t.Run(name, func(t *testing.T) {
			_, _, err := s.pod(t, name, name)
			refused(t, err, codes.FailedPrecondition, fmt.Sprintf("runtime handler %q", name), b.path, b.says)
		})
	}
	_, _, err := s.pod(t, "unknown", "unknown")
	refused(t, err, codes.InvalidArgument, "unknown runtime handler")
	s.start(t, "fine", "", "exec sleep 100000")

	resp, err := s.Status(t.Context(), &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range resp.GetStatus().GetConditions() {
		if c.GetType() == runtimeapi.RuntimeReady && !c.GetStatus() {
			t.Errorf("the node is not ready: %s", c.GetMessage())
		}
	}
	for _, h := range resp.GetRuntimeHandlers() {
		if f := h.GetFeatures(); h.GetName() != "" && (f.GetUserNamespaces() || f.GetRecursiveReadOnlyMounts()) {
			t.Errorf("%s: %v", h.GetName(), f)
		}
	}
	var told map[string]string
	if err := json.Unmarshal([]byte(resp.GetInfo()["handlersBroken"]), &told); err != nil || len(told) != len(broken) {
		t.Errorf("%v, %v", resp.GetInfo()["handlersBroken"], err)
	}

	// It is mended while the daemon runs.
	script(t, broken["fails"].path, fmt.Sprintf("exec %s \"$@\"", programs(t)[0]))
	var podID string
	eventually(t, "a pod of the mended handler", func() bool {
		podID, _, err = s.pod(t, "mended", "fails")
		return err == nil
	})
	if err := s.RemovePod(t.Context(), podID); err != nil {
		t.Error(err)
	}
	s.Done(t)
}

// TestBreaks: a program that stops working under a pod leaves the pod to be removed.
func TestBreaks(t *testing.T) {
	real := programs(t)[0]
	path := filepath.Join(t.TempDir(), "runtime")
	works := fmt.Sprintf("exec %s \"$@\"", real)
	for name, breaks := range map[string]string{"fails": "exit 1", "hangs": "exec sleep 36111"} {
		t.Run(name, func(t *testing.T) {
			script(t, path, works)
			s := open(t, map[string]string{"other": path})
			podID, id := s.start(t, "pod", "other", "exec sleep 100000")
			pod := node.Pod("pod", s.Logs)
			made, err := s.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: podID, Config: node.Container("waits", busybox, "true"), SandboxConfig: pod})
			if err != nil {
				t.Fatal(err)
			}
			// Only what starts containers: what it is, it still says.
			script(t, path, fmt.Sprintf("case \" $* \" in *' create '*|*' start '*|*' exec '*|*' delete '*) case \" $* \" in *--help*) ;; *) %s;; esac;; esac\n%s", breaks, works))

			resp, err := s.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}, Timeout: 2})
			if err == nil {
				t.Errorf("exec: %v", resp)
			}
			t.Log(err)
			if name == "fails" { // else it takes half a minute and two to say so
				_, err = s.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: made.GetContainerId()})
				refused(t, err, codes.FailedPrecondition, path)
				_, err = s.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: podID, Config: node.Container("more", busybox, "true"), SandboxConfig: pod})
				refused(t, err, codes.FailedPrecondition, path, "it does not say why")
			}
			if _, err := s.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id}); err != nil {
				t.Error(err)
			}
			began := time.Now()
			if err := s.RemovePod(t.Context(), podID); err != nil {
				t.Error(err)
			}
			t.Logf("the pod with two containers was removed in %s", time.Since(began).Round(time.Millisecond))
			s.Done(t)
		})
	}
}
