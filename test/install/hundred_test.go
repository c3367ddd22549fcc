package install

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/images"
	"github.com/berthd/berth/test/node"
)

const (
	hundred   = 100
	firstUnit = "/etc/systemd/system/first-pod.service"
	firstDir  = "/var/lib/berth-first" // what the unit needs
)

// TestBeforeHundred makes the machine a node with a hundred pods, and with a unit that wants
// another as soon as berthd serves. The tests below follow it, each after a reboot.
func TestBeforeHundred(t *testing.T) {
	needReboots(t)
	r := &rebooted{host: open(t)}
	registry, err := images.Serve(t.Context(), r.repo)
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Close()
	if err := registry.WriteCerts(certs, false); err != nil {
		t.Fatal(err)
	}
	r.install("--now")
	r.until("the node is ready", func() bool { _, err := r.try("/usr/local/bin/berth", "status"); return err == nil })
	r.crictl("pull", busybox)
	r.dir = firstDir
	if err := os.MkdirAll(firstDir, 0o755); err != nil {
		t.Fatal(err)
	}
	pod, container := r.file("pod.json", node.Pod("first", firstDir)), r.file("container.json", node.Container("first", busybox, "sleep", "100000"))
	unit := fmt.Sprintf("[Unit]\nWants=berthd.service\nAfter=berthd.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=%s --timeout 60s run --no-pull %s %s\n[Install]\nWantedBy=multi-user.target\n",
		firstDir+"/crictl", container, pod)
	if err := os.WriteFile(firstUnit, []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	r.run("cp", filepath.Join(r.repo, ".cache", "bin", "crictl"), firstDir)
	r.run("systemctl", "daemon-reload")
	r.run("systemctl", "enable", "first-pod")
	r.hundred()
	r.run("sync")
	r.write()
}

// TestAfterHundred: the first new pod has come by itself, nothing of the hundred runs, and once
// they are removed, as kubelet does, nothing of them is left and their addresses are free.
func TestAfterHundred(t *testing.T) {
	needReboots(t)
	r := reopen(t)
	if now := bootID(t); now == r.Boot {
		t.Fatal("the machine was not rebooted")
	}
	r.until("the first new pod is made", func() bool {
		return r.run("systemctl", "show", "--value", "-p", "ActiveState", "first-pod") == "active"
	})
	c, err := (&node.Node{Socket: "/run/berth/berth.sock"}).Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Logf("the first new container ran %.2f s after berthd's start; the figure to meet is 2 s on a machine with KVM", r.firstAfter(c).Seconds())
	if ready := strings.Fields(r.crictl("pods", "-q", "--state", "ready")); len(ready) != 1 {
		t.Errorf("%d pods are ready, want the new one alone", len(ready))
	}
	if running := strings.Fields(r.crictl("ps", "-q")); len(running) != 1 {
		t.Errorf("%d containers run, want the new one alone", len(running))
	}
	r.remove(c, "notready")
	r.nothingOf(r.IDs)
	r.exact()
	r.remove(c, "ready")
	r.exact()
	r.hundred() // each has an address again
	r.exact()
	r.run("sync")
	r.write()
}

// TestAfterHundreds takes the node's parts away again.
func TestAfterHundreds(t *testing.T) {
	needReboots(t)
	r := reopen(t)
	r.run("systemctl", "disable", "first-pod")
	c, err := (&node.Node{Socket: "/run/berth/berth.sock"}).Client()
	if err != nil {
		t.Fatal(err)
	}
	r.remove(c, "notready")
	r.remove(c, "ready")
	c.Close()
	r.berth("install", "--uninstall")
	if err := errors.Join(os.RemoveAll("/etc/berth"), os.RemoveAll(firstDir), os.Remove(firstUnit)); err != nil {
		t.Fatal(err)
	}
	r.run("systemctl", "daemon-reload")
	r.nothingOf(r.IDs)
	for _, path := range []string{"/run/berth", "/var/lib/berth", "/var/lib/cni", "/sys/class/net/berth0"} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("left: %s", path)
		}
	}
}

// hundred runs that many pods with a container each.
func (r *rebooted) hundred() {
	r.t.Helper()
	c, err := (&node.Node{Socket: "/run/berth/berth.sock"}).Client()
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	group, ctx := errgroup.WithContext(r.t.Context())
	group.SetLimit(4)
	for i := range hundred {
		group.Go(func() error {
			pod := node.Pod(fmt.Sprintf("pod-%d", i), filepath.Join(firstDir, "logs"))
			id, err := c.RunPod(ctx, pod)
			if err == nil {
				_, err = c.Run(ctx, id, pod, node.Container("c", busybox, "sleep", "100000"))
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		r.t.Fatal(err)
	}
}

// remove removes the pods of a state.
func (r *rebooted) remove(c *node.Client, state string) {
	r.t.Helper()
	ctx := context.WithoutCancel(r.t.Context())
	for _, id := range strings.Fields(r.crictl("pods", "-q", "--no-trunc", "--state", state)) {
		if err := c.RemovePod(ctx, id); err != nil {
			r.t.Error(err)
		}
	}
}

// firstAfter is how long after the start of berthd's process the first container was started.
func (r *rebooted) firstAfter(c *node.Client) time.Duration {
	r.t.Helper()
	id := r.crictl("ps", "-q", "--no-trunc", "--name", "first")
	resp, err := c.ContainerStatus(r.t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		r.t.Fatal(err)
	}
	begun, err := strconv.ParseInt(r.unit("ExecMainStartTimestampMonotonic"), 10, 64) // µs since the boot
	if err != nil {
		r.t.Fatal(err)
	}
	text, _, _ := strings.Cut(r.text("/proc/uptime"), " ")
	up, err := strconv.ParseFloat(text, 64)
	if err != nil {
		r.t.Fatal(err)
	}
	boot := time.Now().Add(-time.Duration(up * float64(time.Second)))
	return time.Unix(0, resp.GetStatus().GetStartedAt()).Sub(boot.Add(time.Duration(begun) * time.Microsecond))
}
