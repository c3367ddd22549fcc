package streaming

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

const busybox = "docker.io/library/busybox:latest"

// A suite is a node with busybox.
type suite struct{ *node.Fresh }

func open(t *testing.T, extra string) *suite {
	t.Helper()
	s := &suite{node.Open(t, extra, nil)}
	if _, err := s.Pull(t.Context(), busybox); err != nil {
		t.Fatal(err)
	}
	return s
}

// start runs a script in a pod of its own.
func (s *suite) start(t *testing.T, name, script string, edit func(*runtimeapi.ContainerConfig)) (podID, id string) {
	t.Helper()
	pod, conf := node.Pod(name, s.Logs), node.Container(name, busybox, "sh", "-c", script)
	if edit != nil {
		edit(conf)
	}
	podID, err := s.RunPod(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	if id, err = s.Run(t.Context(), podID, pod, conf); err != nil {
		t.Fatal(err)
	}
	return podID, id
}

// exec gives the URL of a script in a container.
func (s *suite) exec(t *testing.T, id, script string, w wants) string {
	t.Helper()
	resp, err := s.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"sh", "-c", script},
		Stdin: w.in, Stdout: w.out, Stderr: w.errOut, Tty: w.tty})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetUrl()
}

// attach gives the URL of a container's own streams.
func (s *suite) attach(t *testing.T, id string, w wants) string {
	t.Helper()
	resp, err := s.Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: id, Stdin: w.in, Stdout: w.out, Stderr: w.errOut, Tty: w.tty})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetUrl()
}

// eventually waits for what nobody tells of: berthd's own clean-up.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(limit); !is(); {
		select {
		case <-tick.C:
		case <-end:
			t.Errorf("not within %v: %s", limit, what)
			return
		}
	}
}

// marked are the processes with a word in their command lines.
func marked(mark string) (pids []string) {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range paths {
		data, _ := os.ReadFile(p)
		if bytes.Contains(data, []byte(mark)) {
			pids = append(pids, filepath.Base(filepath.Dir(p)))
		}
	}
	return pids
}

// execGroups are the cgroups of commands in a container.
func execGroups(id string) (found []string) {
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		for _, below := range []string{"/*", "/*/*", "/*/*/*"} {
			dirs, _ := filepath.Glob(pattern + below + id + "*/exec-*")
			found = append(found, dirs...)
		}
	}
	return found
}

// gone expects a command's processes and cgroups to end.
func gone(t *testing.T, id, mark string) {
	t.Helper()
	eventually(t, "end of "+mark, func() bool { return len(marked(mark)) == 0 })
	eventually(t, "end of the cgroups", func() bool { return len(execGroups(id)) == 0 })
}

// log is a container's log without its headers.
func (s *suite) log(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.Logs, name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(data)) {
		if f := strings.SplitN(line, " ", 4); len(f) == 4 {
			out.WriteString(f[3])
		}
	}
	return out.String()
}
