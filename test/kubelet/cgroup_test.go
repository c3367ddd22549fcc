package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// bySystemd tells whether cgroups are systemd's, as berthd finds it too: kubelet's
// pods are in kubepods.slice then.
func bySystemd() bool {
	_, err := os.Stat("/run/systemd/private")
	return err == nil && onV2()
}

// onV2 tells whether the host has cgroup v2 alone.
func onV2() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// cgroupRoot is where kubelet is to make its cgroups.
func cgroupRoot() string {
	if bySystemd() {
		return "/"
	}
	return fmt.Sprintf("/berth-kubelet-%d", os.Getpid())
}

// hierarchies are the folders in which a cgroup's path begins.
func hierarchies(t *testing.T) []string {
	t.Helper()
	if onV2() {
		return []string{"/sys/fs/cgroup"}
	}
	dirs, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil || len(dirs) == 0 {
		t.Fatal(dirs, err)
	}
	for i, d := range dirs {
		dirs[i] = filepath.Dir(d)
	}
	return dirs
}

// makeCgroupRoot makes it: kubelet wants it to be there.
func makeCgroupRoot(t *testing.T) {
	t.Helper()
	if bySystemd() {
		t.Cleanup(func() { removeCgroupRoot(t) })
		return
	}
	for _, dir := range hierarchies(t) {
		if err := os.MkdirAll(filepath.Join(dir, cgroupRoot()), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { removeCgroupRoot(t) })
}

// removeCgroupRoot removes what kubelet keeps there. It may be called again.
func removeCgroupRoot(t *testing.T) {
	t.Helper()
	if bySystemd() {
		if err := systemctl(context.WithoutCancel(t.Context()), "stop", "kubepods.slice"); err != nil {
			t.Error(err)
		}
		return
	}
	for _, h := range hierarchies(t) {
		for _, dir := range slices.Backward(below(t, filepath.Join(h, cgroupRoot()))) {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
	}
}

// below lists a folder and the folders in it, parents first.
func below(t *testing.T, dir string) (dirs []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went meanwhile
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

// podCgroups lists the cgroups that kubelet has made for pods.
func podCgroups(t *testing.T, root string) (found []string) {
	t.Helper()
	for _, h := range hierarchies(t) {
		kubepods := filepath.Join(h, root, "kubepods")
		if bySystemd() {
			kubepods += ".slice"
		}
		for _, dir := range below(t, kubepods) {
			if name := filepath.Base(dir); strings.HasPrefix(name, "pod") || strings.Contains(name, "-pod") {
				found = append(found, dir)
			}
		}
	}
	return found
}

// cgroupOf is where a process is below a hierarchy's root.
func cgroupOf(t *testing.T, pid string) string {
	t.Helper()
	data, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && (onV2() && f[0] == "0" || f[1] == "memory") {
			return f[2]
		}
	}
	t.Fatalf("process %s: %s", pid, data)
	return ""
}
