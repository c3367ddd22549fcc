package handlers

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

const (
	busybox = "docker.io/library/busybox:latest"
	limit   = 40 * time.Second
)

// programs are the OCI runtimes of this machine: Debian's crun where it works, which
// wants one kind of cgroups, and runc as test/bench/tools/build.sh builds it.
func programs(t *testing.T) []string {
	t.Helper()
	var found []string
	built, err := filepath.Abs("../../.cache/bin/runc")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{built, "/usr/bin/crun"} {
		if _, err := os.Stat(path); err == nil {
			found = append(found, path)
		}
	}
	if len(found) == 0 {
		t.Skip("there is neither crun nor runc here: test/bench/tools/build.sh builds runc")
	}
	return found
}

// A suite is a node with busybox and the handlers of a test.
type suite struct{ *node.Fresh }

// open starts a daemon with handlers by the paths of their programs.
func open(t *testing.T, handlers map[string]string) *suite {
	t.Helper()
	var extra strings.Builder
	for name, path := range handlers {
		fmt.Fprintf(&extra, "[handlers.%s]\npath = %q\n", name, path)
	}
	s := &suite{node.Open(t, extra.String(), nil)}
	if _, err := s.Pull(t.Context(), busybox); err != nil {
		t.Fatal(err)
	}
	return s
}

// pod runs a pod of a handler.
func (s *suite) pod(t *testing.T, name, handler string) (string, *runtimeapi.PodSandboxConfig, error) {
	t.Helper()
	conf := node.Pod(name, s.Logs)
	resp, err := s.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: conf, RuntimeHandler: handler})
	return resp.GetPodSandboxId(), conf, err
}

// start runs a script in a pod of its own.
func (s *suite) start(t *testing.T, name, handler, script string) (podID, id string) {
	t.Helper()
	podID, pod, err := s.pod(t, name, handler)
	if err != nil {
		t.Fatal(err)
	}
	if id, err = s.Run(t.Context(), podID, pod, node.Container(name, busybox, "sh", "-c", script)); err != nil {
		t.Fatal(err)
	}
	return podID, id
}

func (s *suite) status(t *testing.T, id string) *runtimeapi.ContainerStatus {
	t.Helper()
	resp, err := s.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetStatus()
}

// ended waits for a container's end.
func (s *suite) ended(t *testing.T, id string) *runtimeapi.ContainerStatus {
	t.Helper()
	var st *runtimeapi.ContainerStatus
	eventually(t, "the container's end", func() bool {
		st = s.status(t, id)
		return st.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED
	})
	return st
}

// exec runs a script in a container and returns what it wrote, trimmed.
func (s *suite) exec(t *testing.T, id, script string) string {
	t.Helper()
	resp, err := s.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", script}, Timeout: 60})
	if err != nil || resp.GetExitCode() != 0 {
		t.Errorf("%s: %v, code %d: %s", script, err, resp.GetExitCode(), resp.GetStderr())
	}
	return strings.TrimSpace(string(resp.GetStdout()))
}

// eventually waits for what nobody tells of.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(node.Patience(limit)); !is(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("never: %s", what)
		}
	}
}

// refused expects an error of that code that says all of that.
func refused(t *testing.T, err error, code codes.Code, says ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("%v, want %v", err, code)
		return
	}
	for _, text := range says {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%v: it does not say %q", err, text)
		}
	}
	t.Log(err)
}

// script writes a program.
func script(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil { // one that runs is not written to
		t.Fatal(err)
	}
	return path
}

// again runs the tests of another package with containers that a program runs.
func again(t *testing.T, path, pkg, tests string) {
	t.Helper()
	dir := filepath.Join("..", filepath.Base(pkg))
	test := filepath.Join(dir, filepath.Base(pkg)+".test") // where there is no Go
	cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-v", "-run", tests, ".")
	if _, err := os.Stat(test); err == nil {
		cmd = exec.CommandContext(t.Context(), "./"+filepath.Base(test), "-test.v", "-test.run", tests)
	}
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "BERTH_TEST_RUNTIME="+path)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%d tests and subtests passed", strings.Count(string(out), "--- PASS"))
}
