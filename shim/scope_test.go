package shim_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthd/berth/shim"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// needSystemd skips where systemd's scopes cannot be made by us.
func needSystemd(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/run/systemd/private"); err != nil || !onV2() {
		t.Skip("needs systemd and cgroup v2 alone")
	}
	if fixture.runtime != "" {
		t.Skip("another runtime's program asks systemd itself")
	}
}

func systemctl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "systemctl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("systemctl %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// scoped puts the container into a scope, and returns the scope's name and directory.
func (b *box) scoped() (name, dir string) {
	unique := filepath.Base(b.h.state)
	prefix := "berth-" + unique
	name = fmt.Sprintf("%s-%s.scope", prefix, b.id)
	b.spec.Linux.CgroupsPath = "berthtest.slice:" + prefix + ":" + b.id
	b.req.SystemdCgroup = true
	b.h.t.Cleanup(func() { // when the test's own context has ended
		if out, err := exec.Command("systemctl", "stop", "berthtest.slice").CombinedOutput(); err != nil {
			b.h.t.Errorf("systemctl stop: %v: %s", err, out)
		}
	})
	return name, filepath.Join("/sys/fs/cgroup/berthtest.slice", name)
}

func (b *box) checkScopeGone(name string) {
	b.h.t.Helper()
	eventually(b.h.t, name+" is still known", func() bool {
		return systemctl(b.h.t, "list-units", "--all", "--plain", "--no-legend", name) == ""
	})
}

// TestScope: a container is in a scope that systemd knows the limits of: they hold after
// systemd has read everything anew; and nothing is left of it, whoever deletes it.
func TestScope(t *testing.T) {
	needSystemd(t)
	for _, dead := range []bool{false, true} {
		t.Run(fmt.Sprintf("dead=%t", dead), func(t *testing.T) {
			h := newHost(t)
			b := h.box("sleep 1000")
			name, dir := b.scoped()
			b.spec.Linux.Resources = &specs.LinuxResources{
				Memory: &specs.LinuxMemory{Limit: new(int64(64 * mib)), Swap: new(int64(64 * mib))},
				CPU:    &specs.LinuxCPU{Shares: new(uint64(512)), Quota: new(int64(50000)), Period: new(uint64(100000))},
				Pids:   &specs.LinuxPids{Limit: new(int64(100))},
			}
			grouped, group := map[string]string{"memory.oom.group": "1"}, "0"
			if !dead { // else it comes with the update
				b.spec.Linux.Resources.Unified, group = grouped, "1"
			}
			b.start()
			want := map[string]string{"memory.max": "67108864", "memory.swap.max": "0", "cpu.max": "50000 100000", "pids.max": "100"}
			check := func(when string) {
				t.Helper()
				eventually(t, when+": memory.oom.group is not kept", func() bool { // a reload is heard of when it is over
					data, err := os.ReadFile(filepath.Join(dir, "memory.oom.group"))
					return err == nil && string(data) == group+"\n"
				})
				for file, value := range want {
					data, err := os.ReadFile(filepath.Join(dir, file))
					if got := strings.TrimSpace(string(data)); err != nil || got != value {
						t.Errorf("%s: %s = %q, want %q (%v)", when, file, got, value, err)
					}
				}
			}
			check("at first")
			systemctl(t, "daemon-reload")
			check("after a reload")
			if got := systemctl(t, "show", "--value", "-p", "Delegate", name); got != "yes" {
				t.Errorf("Delegate = %s", got)
			}
			if res, err := b.exec("true"); err != nil || res.Code != 0 {
				t.Errorf("exec = %+v, %v", res, err)
			}
			more := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(96 * mib)), Swap: new(int64(96 * mib))}, Unified: grouped}
			if err := h.Update(t.Context(), shim.UpdateRequest{ID: b.id, Resources: more}); err != nil {
				t.Fatal(err)
			}
			want["memory.max"], group = "100663296", "1"
			check("after an update")
			systemctl(t, "daemon-reexec")
			check("after an update and a new systemd")
			if dead {
				shims := h.shimPids()
				if err := unix.Kill(shims[0].pid, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
				shims[0].waitGone(t)
			}
			if err := h.Delete(t.Context(), b.id); err != nil {
				t.Fatal(err)
			}
			b.checkScopeGone(name)
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("%s: %v", dir, err)
			}
		})
	}
}

// TestScopeUnlimited: what is not limited is not limited by systemd's own defaults.
func TestScopeUnlimited(t *testing.T) {
	needSystemd(t)
	h := newHost(t)
	b := h.box("sleep 1000")
	_, dir := b.scoped()
	b.start()
	for _, file := range []string{"pids.max", "memory.max", "memory.swap.max"} {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if got := strings.TrimSpace(string(data)); err != nil || got != "max" {
			t.Errorf("%s = %q, want max (%v)", file, got, err)
		}
	}
}

// TestScopeOOM: the kill is seen although the scope ends with its last process.
func TestScopeOOM(t *testing.T) {
	needSystemd(t)
	h := newHost(t)
	for range 5 {
		b := h.hungry("exec tail /dev/zero")
		name, _ := b.scoped()
		if exit := b.run(); exit.Code != 137 || !exit.OOMKilled {
			t.Errorf("exit = %+v, want an OOM kill", exit)
		}
		if err := h.Delete(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
		b.checkScopeGone(name)
	}
}
