package shim_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/shim"
)

// A box is a container to be.
type box struct {
	h    *host
	id   string
	spec *specs.Spec
	req  shim.CreateRequest
}

// box describes a container that runs a shell script.
func (h *host) box(script string) *box { return h.command("/bin/sh", "-c", script) }

func (h *host) command(args ...string) *box {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n++
	id := fmt.Sprintf("c%d", h.n)
	h.ids = append(h.ids, id)
	bundle := filepath.Join(h.state, "containers", id)
	return &box{
		h: h, id: id, spec: newSpec(h.cgroup+"/"+id, args),
		req: shim.CreateRequest{ID: id, PodID: "p-" + id, Bundle: bundle, LogPath: filepath.Join(h.state, "logs", id+".log"), Runtime: fixture.runtime},
	}
}

func newSpec(cgroup string, args []string) *specs.Spec {
	caps := []string{"CAP_KILL", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETUID", "CAP_SETGID"}
	return &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Root:     &specs.Root{Path: fixture.rootfs},
		Hostname: "box",
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: cgroup,
			Namespaces:  []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}},
			Resources:   &specs.LinuxResources{},
		},
	}
}

// share mounts a new folder of the host at /test and returns its path.
func (b *box) share() string {
	b.h.t.Helper()
	dir := filepath.Join(b.h.state, "share-"+b.id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.h.t.Fatal(err)
	}
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/test", Type: "bind", Source: dir, Options: []string{"bind"}})
	return dir
}

// withoutPIDs takes the container's own PID namespace away.
func (b *box) withoutPIDs() *box {
	ns := b.spec.Linux.Namespaces
	b.spec.Linux.Namespaces = append([]specs.LinuxNamespace{}, ns[1:]...)
	return b
}

func (b *box) create() (int, error) {
	b.h.t.Helper()
	b.write()
	return b.h.Create(b.h.t.Context(), b.req)
}

// write makes the bundle.
func (b *box) write() {
	b.h.t.Helper()
	if err := os.MkdirAll(b.req.Bundle, 0o700); err != nil {
		b.h.t.Fatal(err)
	}
	data, err := json.Marshal(b.spec)
	if err != nil {
		b.h.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.req.Bundle, "config.json"), data, 0o600); err != nil {
		b.h.t.Fatal(err)
	}
}

// start creates and starts the container.
func (b *box) start() (pid int) {
	b.h.t.Helper()
	pid, err := b.create()
	if err != nil {
		b.h.t.Fatal(err)
	}
	if err := b.h.Start(b.h.t.Context(), b.id); err != nil {
		b.h.t.Fatal(err)
	}
	return pid
}

// run runs the container to its end.
func (b *box) run() shim.Exit {
	b.h.t.Helper()
	b.start()
	return b.wait()
}

func (b *box) wait() shim.Exit {
	b.h.t.Helper()
	exit, err := b.h.Wait(b.h.t.Context(), b.id)
	if err != nil {
		b.h.t.Fatal(err)
	}
	return exit
}

// A record is a line of a log.
type record struct{ stream, tag, text string }

var recordFormat = regexp.MustCompile(`^(\S+) (stdout|stderr) ([PF]) (.*)$`)

// readLog parses a log as kubelet does.
func readLog(t testing.TB, path string) []record {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var records []record
	for line := range strings.Lines(string(data)) {
		m := recordFormat.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil || !strings.HasSuffix(line, "\n") {
			t.Fatalf("not a log line: %.100q", line)
		}
		if _, err := time.Parse(time.RFC3339Nano, m[1]); err != nil {
			t.Fatal(err)
		}
		records = append(records, record{m[2], m[3], m[4]})
	}
	return records
}

func (b *box) log() []record {
	b.h.t.Helper()
	return readLog(b.h.t, b.req.LogPath)
}
