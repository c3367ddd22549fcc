package crictl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

const busybox = "docker.io/library/busybox:latest"

// A suite is a node and crictl's settings for it.
type suite struct {
	*node.Fresh
	conf string
}

func open(t *testing.T) *suite {
	t.Helper()
	s := &suite{Fresh: node.Open(t, "", nil)}
	if err := s.World.BuildTools(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.conf = filepath.Join(s.World.Dir, "crictl.yaml")
	text := fmt.Sprintf("runtime-endpoint: unix://%[1]s\nimage-endpoint: unix://%[1]s\ntimeout: 60\n", s.Node.Socket)
	if err := os.WriteFile(s.conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return s
}

// command is crictl, not yet started.
func (s *suite) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, s.World.Bin("crictl"), append([]string{"--config", s.conf}, args...)...)
}

// try runs crictl and gives both its outputs and its exit code.
func (s *suite) try(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := s.command(t.Context(), args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatalf("crictl %s: %v", strings.Join(args, " "), err)
	} else if ok {
		code = exit.ExitCode()
	}
	t.Logf("crictl %s: %d\n%s%s", strings.Join(args, " "), code, out.String(), errOut.String())
	return out.String(), errOut.String(), code
}

// run runs crictl, which must succeed, and gives what it prints.
func (s *suite) run(t *testing.T, args ...string) string {
	t.Helper()
	out, errOut, code := s.try(t, args...)
	if code != 0 {
		t.Fatalf("crictl %s: exit code %d: %s", strings.Join(args, " "), code, errOut)
	}
	return out
}

// shows runs crictl and expects each expression in what it prints, where ^ and $
// are a line's ends and a blank is any number of them.
func (s *suite) shows(t *testing.T, args []string, want ...string) string {
	t.Helper()
	out := s.run(t, args...)
	for _, w := range want {
		if !regexp.MustCompile(`(?m)` + strings.ReplaceAll(w, " ", `\s+`)).MatchString(out) {
			t.Errorf("crictl %s: no %q in\n%s", strings.Join(args, " "), w, out)
		}
	}
	return out
}

// fields runs crictl and reads its answer as JSON.
func (s *suite) fields(t *testing.T, args ...string) map[string]any {
	t.Helper()
	var out map[string]any
	if err := json.Unmarshal([]byte(s.run(t, args...)), &out); err != nil {
		t.Fatalf("crictl %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// at follows keys through what fields gave.
func at(t *testing.T, v any, keys ...string) any {
	t.Helper()
	for _, k := range keys {
		m, ok := v.(map[string]any)
		if !ok {
			t.Fatalf("no %q in %v", k, v)
		}
		v = m[k]
	}
	return v
}

// file writes a configuration as crictl reads it.
func (s *suite) file(t *testing.T, name string, m any) string {
	t.Helper()
	data, err := json.Marshal(m) // as crictl reads it: the Go struct, not protobuf's JSON
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.World.Dir, name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// start makes a pod and a container of a shell script with crictl alone.
func (s *suite) start(t *testing.T, name, script string, edit func(*runtimeapi.ContainerConfig)) (podID, id string) {
	t.Helper()
	conf := node.Container(name, busybox, "sh", "-c", script)
	conf.Labels = map[string]string{"app": name, "io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "test"} // as kubelet does
	if edit != nil {
		edit(conf)
	}
	pod := s.file(t, name+"-pod.json", node.Pod(name, s.Logs))
	s.run(t, "pull", conf.GetImage().GetImage())
	podID = strings.TrimSpace(s.run(t, "runp", pod))
	id = strings.TrimSpace(s.run(t, "create", podID, s.file(t, name+".json", conf), pod))
	s.run(t, "start", id)
	return podID, id
}
