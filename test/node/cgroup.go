package node

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
)

// SystemdCgroup tells whether BERTH_TEST_CGROUP_DRIVER names systemd as the cgroup
// driver, so that tests whose pods have cgroups can be run with either.
func SystemdCgroup() bool { return os.Getenv("BERTH_TEST_CGROUP_DRIVER") == "systemd" }

// CgroupDriver is what a daemon's configuration needs for that driver.
func CgroupDriver() string {
	driver := "cgroupfs"
	if SystemdCgroup() {
		driver = "systemd"
	}
	return fmt.Sprintf("[cgroup]\ndriver = %q\n", driver)
}

// A PodCgroup is the cgroup of a pod, which is kubelet's: made before the pod, by the
// calls that kubelet makes, and removed after it.
type PodCgroup struct {
	Parent string // what kubelet says that it is
	levels []cgroups.Manager
}

// MakePodCgroup makes the cgroup of a pod, in a class of pods, as kubelet has them. The
// test's end removes all of it, and expects that nothing of a container is in it.
func MakePodCgroup(t *testing.T, name string) *PodCgroup {
	t.Helper()
	c := &PodCgroup{Parent: "/"}
	t.Cleanup(func() { c.remove(t) })
	top := fmt.Sprint(name, os.Getpid())
	levels := []string{top, "burstable", "pod1"}
	if SystemdCgroup() {
		levels = []string{top + ".slice", top + "-burstable.slice", top + "-burstable-pod1.slice"}
		if own := c.level(t, "berth.slice"); !own.Exists() { // where pods without a parent are; it stays
			c.levels = append(c.levels, own)
		}
	}
	for _, level := range levels {
		m := c.level(t, level)
		c.levels = append(c.levels, m)
		c.Parent = path.Join(c.Parent, level)
		if err := m.Apply(-1); err != nil { // no process
			t.Fatal(err)
		}
		if err := m.Set(&cgroups.Resources{SkipDevices: true}); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// level is a cgroup in c.
func (c *PodCgroup) level(t *testing.T, name string) cgroups.Manager {
	t.Helper()
	config := &cgroups.Cgroup{Resources: &cgroups.Resources{SkipDevices: true}}
	switch {
	case !SystemdCgroup():
		config.Path = path.Join(c.Parent, name)
	case c.Parent == "/":
		config.Systemd, config.Name, config.Parent = true, name, "-.slice"
	default:
		config.Systemd, config.Name, config.Parent = true, name, path.Base(c.Parent)
	}
	m, err := manager.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Limit gives the pod limits, as kubelet does.
func (c *PodCgroup) Limit(t *testing.T, r cgroups.Resources) {
	t.Helper()
	r.SkipDevices = true
	if err := c.levels[len(c.levels)-1].Set(&r); err != nil {
		t.Fatal(err)
	}
}

// Path is where the cgroup of the container id is, below the root of each hierarchy; of
// the pod without one.
func (c *PodCgroup) Path(id string) string {
	if id != "" && SystemdCgroup() {
		id = "berth-" + id + ".scope"
	}
	return path.Join(c.Parent, id)
}

// File is a file of that cgroup: of a controller on v1, which has a hierarchy for each.
func (c *PodCgroup) File(controller, name, id string) string {
	if OnV2() {
		controller = ""
	}
	return filepath.Join("/sys/fs/cgroup", controller, c.Path(id), name)
}

func (c *PodCgroup) remove(t *testing.T) {
	t.Helper()
	for i := len(c.levels) - 1; i >= 0; i-- {
		for _, dir := range c.levels[i].GetPaths() {
			for _, left := range below(dir) {
				t.Error("left by the daemon: ", left)
			}
		}
		if err := c.levels[i].Destroy(); err != nil {
			t.Error(err)
		}
	}
	if !SystemdCgroup() || c.Parent == "/" {
		return
	}
	top, _, _ := strings.Cut(path.Base(c.Parent), "-")
	out, err := exec.Command("systemctl", "list-units", "--all", "--plain", "--no-legend", top+"*").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("units that are left: %v\n%s", err, out)
	}
}

// below lists the cgroups in one.
func below(dir string) (found []string) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != dir {
			found = append(found, path)
		}
		return nil
	})
	return found
}

// OnV2 tells whether the host has cgroup v2 alone.
func OnV2() bool { return exists("/sys/fs/cgroup/cgroup.controllers") }

// SwapCounted tells whether the kernel counts swap.
func SwapCounted() bool {
	found, err := filepath.Glob("/sys/fs/cgroup/*/memory.swap.max")
	return err == nil && len(found) > 0 || exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
}

// PressureCounted tells whether the kernel has PSI, and a hierarchy of cgroup v2 to
// tell it in.
func PressureCounted() bool {
	return exists("/proc/pressure/cpu") && (OnV2() || exists("/sys/fs/cgroup/unified/cgroup.controllers"))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
