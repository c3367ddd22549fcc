package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/images"
	"github.com/berthd/berth/test/leaks"
	"github.com/berthd/berth/test/node"
)

const (
	repo    = "../.."
	busybox = "docker.io/library/busybox:latest"
	certs   = "/etc/berth/certs.d"
	dropIn  = "/etc/systemd/system/berthd.service.d"
)

// looked at for what is left behind.
var folders = []string{"/etc", "/usr/local", "/opt", "/run/berth", "/var/lib/berth", "/var/lib/cni", "/run/systemd/transient"}

// A host is this machine with berth on it.
type host struct {
	t    *testing.T
	repo string
	dir  string // the test's own files
}

// open skips where there is no systemd, and refuses where berth is installed
// already, which is not the test's to take away.
func open(t *testing.T) *host {
	t.Helper()
	if _, err := os.Stat("/run/systemd/system"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs systemd and root: go run ./test/vm run install")
	}
	for _, path := range []string{"/etc/berth", "/etc/crictl.yaml", "/etc/systemd/system/berthd.service", "/var/lib/berth"} {
		if _, err := os.Lstat(path); err == nil {
			t.Skipf("%s is there: this machine has a berth of its own", path)
		}
	}
	abs, err := filepath.Abs(repo)
	if err != nil {
		t.Fatal(err)
	}
	return &host{t: t, repo: abs, dir: t.TempDir()}
}

// try runs a program and returns what it prints: where it fails, why.
func (h *host) try(args ...string) (string, error) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(h.t.Context()), node.Patience(30*time.Second))
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	h.t.Logf("%s: %v\n%s%s", strings.Join(args, " "), err, out, stderr.String())
	if err != nil {
		return stderr.String(), err
	}
	return strings.TrimSpace(string(out)), nil
}

func (h *host) run(args ...string) string {
	h.t.Helper()
	out, err := h.try(args...)
	if err != nil {
		h.t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// berth runs the built program, crictl the one of the cache, which reads
// /etc/crictl.yaml.
func (h *host) berth(args ...string) string {
	h.t.Helper()
	return h.run(append([]string{filepath.Join(h.repo, "bin", "berth")}, args...)...)
}

func (h *host) crictl(args ...string) string {
	h.t.Helper()
	return h.run(append([]string{filepath.Join(h.repo, ".cache", "bin", "crictl"), "--timeout", "60s"}, args...)...)
}

// install installs berth with the cache's CNI plugins.
func (h *host) install(args ...string) string {
	h.t.Helper()
	return h.berth(append([]string{"install", "--cni-plugins", filepath.Join(h.repo, ".cache", "cni", "bin")}, args...)...)
}

// unit asks systemd for a property of berthd.service.
func (h *host) unit(property string) string {
	h.t.Helper()
	return h.run("systemctl", "show", "--value", "--property", property, "berthd.service")
}

// until waits for a condition.
func (h *host) until(what string, true func() bool) {
	h.t.Helper()
	for end := time.Now().Add(node.Patience(30 * time.Second)); !true(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("not in time: %s", what)
		}
	}
}

func (h *host) file(name string, m any) string {
	h.t.Helper()
	data, err := json.Marshal(m)
	if err != nil {
		h.t.Fatal(err)
	}
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// TestInstall is a node's life: installed, started, its daemon ended in every way
// while a pod runs on, and taken away without a trace.
func TestInstall(t *testing.T) {
	h := open(t)
	ctx := context.WithoutCancel(t.Context())
	before, err := leaks.Take(ctx, folders...)
	if err != nil {
		t.Fatal(err)
	}
	registry, err := images.Serve(ctx, h.repo)
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Close()
	if err := registry.WriteCerts(certs, false); err != nil {
		t.Fatal(err)
	}
	defer h.clear()

	h.install("--now")
	for property, want := range map[string]string{"ActiveState": "active", "UnitFileState": "enabled", "Slice": "berth.slice", "Type": "notify", "WatchdogUSec": "1min", "KillMode": "process", "Delegate": "yes", "FileDescriptorStoreMax": "8"} {
		if got := h.unit(property); got != want {
			t.Errorf("berthd.service: %s=%s, want %s", property, got, want)
		}
	}
	if got := h.unit("StatusText"); !strings.HasPrefix(got, "Serving the CRI on /run/berth/berth.sock") {
		t.Errorf("status %q", got)
	}
	h.run("/usr/local/bin/berth", "config", "check")
	h.until("the node is ready", func() bool { _, err := h.try("/usr/local/bin/berth", "status"); return err == nil })
	if out := h.install("--now"); strings.Contains(out, "wrote") || strings.Contains(out, "start") {
		t.Errorf("installed again:\n%s", out)
	}

	p := h.pod()
	p.runsThrough("systemctl restart", func() { h.run("systemctl", "restart", "berthd") })
	p.runsThrough("systemctl stop and start", func() { h.run("systemctl", "stop", "berthd"); h.run("systemctl", "start", "berthd") })
	p.runsThrough("SIGKILL", func() {
		h.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "berthd")
		h.startedAgain("NRestarts", "1")
	})
	h.neverRefused()
	p.runsThrough("the watchdog", h.hang)
	p.runsThrough("systemctl daemon-reload and daemon-reexec", func() { h.run("systemctl", "daemon-reload"); h.run("systemctl", "daemon-reexec") })

	if out, err := h.try("/usr/local/bin/berth", "install", "--uninstall"); err == nil || !strings.Contains(out, "crictl rmp -fa") {
		t.Errorf("uninstalled with a pod: %v", err)
	}
	p.runsThrough("a refused uninstall", func() {})
	h.crictl("rmp", "-fa")
	h.berth("install", "--uninstall")
	h.berth("install", "--uninstall") // nothing is left, and that is no error
	if err := errors.Join(registry.Close(), os.RemoveAll("/etc/berth")); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft(ctx, before)
}

// clear takes away what a test that failed has left.
func (h *host) clear() {
	if h.t.Failed() {
		_, _ = h.try("journalctl", "-u", "berthd", "--no-pager", "-n", "100")
	}
	if _, err := os.Stat("/etc/berth/installed.json"); err == nil {
		_, _ = h.try("systemctl", "start", "berthd")
		_, _ = h.try(filepath.Join(h.repo, ".cache", "bin", "crictl"), "--timeout", "60s", "rmp", "-fa")
		_, _ = h.try(filepath.Join(h.repo, "bin", "berth"), "install", "--uninstall", "--force")
	}
	for _, dir := range []string{"/etc/berth", dropIn} {
		if err := os.RemoveAll(dir); err != nil {
			h.t.Error(err)
		}
	}
	_, _ = h.try("systemctl", "daemon-reload")
}

// neverRefused restarts and kills the daemon under a client that calls without a pause: it is
// answered each time, but for a call that a kill cuts.
func (h *host) neverRefused() {
	h.t.Helper()
	c, err := (&node.Node{Socket: "/run/berth/berth.sock"}).Client()
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	ctx, stop := context.WithCancel(h.t.Context())
	var failed []error
	calls := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if _, err := c.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{}); err == nil {
				calls++
			} else if ctx.Err() == nil {
				failed = append(failed, err)
			}
		}
	}()
	const rounds = 5
	for range rounds {
		h.run("systemctl", "restart", "berthd")
		if got := h.unit("NFileDescriptorStore"); got != "2" {
			h.t.Errorf("systemd keeps %s sockets, want those of the CRI and of the streaming server", got)
		}
		was := h.unit("NRestarts")
		h.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "berthd")
		h.until("berthd is started again", func() bool { return h.unit("NRestarts") != was && h.unit("ActiveState") == "active" })
	}
	stop()
	<-done
	h.t.Logf("%d calls answered, %d cut", calls, len(failed))
	if len(failed) > rounds || calls < 2*rounds || strings.Contains(fmt.Sprint(failed), "refused") || strings.Contains(fmt.Sprint(failed), "starting") {
		h.t.Errorf("%d calls were answered, and in %d kills failed: %v", calls, rounds, failed)
	}
}

// startedAgain waits until systemd has started the daemon anew.
func (h *host) startedAgain(property, want string) {
	h.t.Helper()
	h.until("berthd is started again", func() bool { return h.unit(property) == want && h.unit("ActiveState") == "active" })
}

// hang stops the daemon's process and waits until systemd has noticed.
func (h *host) hang() {
	h.t.Helper()
	if err := os.MkdirAll(dropIn, 0o755); err != nil {
		h.t.Fatal(err)
	}
	defer os.RemoveAll(dropIn)
	if err := os.WriteFile(filepath.Join(dropIn, "watchdog.conf"), []byte("[Service]\nWatchdogSec=9\n"), 0o644); err != nil {
		h.t.Fatal(err)
	}
	h.run("systemctl", "daemon-reload")
	h.run("systemctl", "restart", "berthd")
	pid, was := h.unit("MainPID"), h.unit("NRestarts")
	h.run("kill", "-STOP", pid)
	h.until("the watchdog ends a daemon that hangs", func() bool { return h.unit("NRestarts") != was && h.unit("ActiveState") == "active" })
	if h.unit("MainPID") == pid {
		h.t.Error("it is the same process")
	}
	if err := os.RemoveAll(dropIn); err != nil {
		h.t.Error(err)
	}
	h.run("systemctl", "daemon-reload")
}

// nothingLeft compares the machine with what it was.
func (h *host) nothingLeft(ctx context.Context, before leaks.Snapshot) {
	h.t.Helper()
	left, err := leaks.Check(ctx, before, node.Patience(10*time.Second), func(line string) bool {
		return strings.Contains(line, "/run/systemd/transient/vm-") // none of ours
	}, folders...)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, line := range left {
		h.t.Error("left: ", line)
	}
	h.until("no process of berth's is left", func() bool {
		programs, err := filepath.Glob("/proc/[0-9]*/exe")
		if err != nil {
			h.t.Fatal(err)
		}
		for _, exe := range programs {
			if to, err := os.Readlink(exe); err == nil && strings.HasPrefix(filepath.Base(to), "berth") {
				return false
			}
		}
		return true
	})
	if list, err := os.ReadFile("/sys/kernel/security/apparmor/profiles"); err == nil && strings.Contains("\n"+string(list), "\nberth-default (") {
		h.t.Error("left: the AppArmor profile berth-default")
	}
	if units := h.run("systemctl", "list-units", "--all", "--no-legend", "--plain", "berthd*", "berth-*", "berth.slice"); units != "" {
		h.t.Errorf("left units:\n%s", units)
	}
}

// A pod that is on the node, with a container that counts.
type pod struct {
	*host
	id, container string
	pid           string // of its process
}

func (h *host) pod() *pod {
	h.t.Helper()
	logs := filepath.Join(h.dir, "logs")
	h.crictl("pull", busybox)
	conf := h.file("pod.json", node.Pod("web", logs))
	c := node.Container("server", busybox, "sh", "-c", "i=0; while true; do i=$((i+1)); echo $i; sleep 0.2; done")
	c.Linux.Resources = &runtimeapi.LinuxContainerResources{}
	p := &pod{host: h, id: h.crictl("runp", conf)}
	p.container = h.crictl("create", p.id, h.file("container.json", c), conf)
	h.crictl("start", p.container)
	p.pid = p.process()
	return p
}

func (p *pod) process() string {
	p.t.Helper()
	return p.crictl("inspect", "--output", "go-template", "--template", "{{.info.pid}}", p.container)
}

// lines is how many the container has logged.
func (p *pod) lines() int {
	p.t.Helper()
	data, err := os.ReadFile(filepath.Join(p.dir, "logs", "server.log"))
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.Count(string(data), "\n")
}

// runsThrough: what is done to the daemon, the container does not notice.
func (p *pod) runsThrough(what string, do func()) {
	p.t.Helper()
	do()
	p.until(what+": the daemon answers", func() bool { _, err := p.try("/usr/local/bin/berth", "status"); return err == nil })
	if pid := p.process(); pid != p.pid {
		p.t.Errorf("%s: process %s was %s", what, pid, p.pid)
	}
	was := p.lines()
	p.until(what+": the container writes on", func() bool { return p.lines() > was })
	if out := p.crictl("exec", p.container, "echo", "hello"); out != "hello" {
		p.t.Errorf("%s: exec says %q", what, out)
	}
	if out := p.crictl("ps", "--quiet", "--no-trunc"); out != p.container {
		p.t.Errorf("%s: ps says %q", what, fmt.Sprint(out))
	}
}
