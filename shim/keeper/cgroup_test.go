package keeper

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestNewCgroup(t *testing.T) {
	tests := []struct {
		name  string
		paths map[string]string
		want  cgroup
	}{
		{"unified", map[string]string{"": "/u"}, cgroup{dir: "/u", memory: "/u"}},
		{"v1", map[string]string{"pids": "/p", "freezer": "/f", "memory": "/m"}, cgroup{dir: "/f", controller: "freezer", memory: "/m"}},
		{"hybrid", map[string]string{"": "/u", "pids": "/p"}, cgroup{dir: "/p", controller: "pids"}},
		{"systemd's only", map[string]string{"name=systemd": "/s"}, cgroup{dir: "/s", controller: "name=systemd"}},
		{"none", nil, cgroup{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := newCgroup(tt.paths); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestOOMKills(t *testing.T) {
	dir := t.TempDir()
	for name, data := range map[string]string{
		"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3",
		"memory.events":      "low 0\nhigh 0\nmax 7\noom 6\noom_kill 5\noom_group_kill 0\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n := (cgroup{controller: "freezer", memory: dir}).oomKills(); n != 3 {
		t.Errorf("v1: %d", n)
	}
	if n := (cgroup{memory: dir}).oomKills(); n != 5 {
		t.Errorf("v2: %d", n)
	}
	if n := (cgroup{memory: filepath.Join(dir, "none")}).oomKills(); n != 0 {
		t.Errorf("none: %d", n)
	}
}

func TestMerge(t *testing.T) {
	p := func(n int64) *int64 { return &n }
	shares, zero := uint64(100), uint64(0)
	old := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: p(1), Swap: p(2)}}
	merge(old, &specs.LinuxResources{
		CPU:     &specs.LinuxCPU{Shares: &shares, Period: &zero, Cpus: "0"},
		Memory:  &specs.LinuxMemory{Limit: p(5), Swap: p(0)},
		Unified: map[string]string{"memory.high": "7"},
	})
	if *old.Memory.Limit != 5 || *old.Memory.Swap != 2 {
		t.Errorf("memory: %d, %d", *old.Memory.Limit, *old.Memory.Swap)
	}
	if *old.CPU.Shares != 100 || old.CPU.Period != nil || old.CPU.Cpus != "0" || old.Unified["memory.high"] != "7" {
		t.Errorf("cpu: %+v", old.CPU)
	}
}
