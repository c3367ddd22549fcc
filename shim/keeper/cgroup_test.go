package keeper

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
	for name, want := range map[string]bool{"": true, "none": false} {
		if _, there := (cgroup{memory: filepath.Join(dir, name)}).lastOOMKills(); there != want {
			t.Errorf("%q: its counter is there: %t", name, there)
		}
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

// Cgroup v1 counts a kill where the process was: those of cgroups that the container
// has made are its own.
func TestOOMKillsBelow(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"", "a", "a/b"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, d, "memory.oom_control"), []byte("oom_kill_disable 0\noom_kill 2\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n := (cgroup{controller: "freezer", memory: dir}).oomKills(); n != 6 {
		t.Errorf("%d", n)
	}
}

// On cgroup v2 the kernel would kill, so what is in use is compared first.
func TestFitMemory(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		limit int64
		ok    bool
	}{
		{"fits", map[string]string{"memory.current": "100\n", "memory.max": "max\n"}, 200, true},
		{"in use", map[string]string{"memory.current": "300\n", "memory.max": "max\n", "memory.stat": "anon 200\ninactive_file 50\n"}, 200, false},
		{"cache that goes", map[string]string{"memory.current": "300\n", "memory.max": "500\n", "memory.stat": "anon 200\ninactive_file 100\n"}, 200, true},
		{"reclaim that did not help", map[string]string{"memory.current": "300\n", "memory.max": "500\n", "memory.stat": "inactive_file 100\n", "memory.reclaim": ""}, 200, false},
		{"not lower than now", map[string]string{"memory.current": "300\n", "memory.max": "200\n"}, 200, true},
		{"no limit", map[string]string{"memory.current": "300\n", "memory.max": "200\n"}, -1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, data := range tt.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for _, r := range []*specs.LinuxResources{
				{Memory: &specs.LinuxMemory{Limit: &tt.limit}},
				{Unified: map[string]string{"memory.max": strconv.FormatInt(tt.limit, 10)}},
			} {
				err := (cgroup{dir: dir, memory: dir}).lowerMemory(r)
				if (err == nil) != tt.ok || err != nil && !errors.Is(err, errBelowUsage) {
					t.Errorf("%v", err)
				}
			}
		})
	}
}

// What an update wrote before it was refused is written back.
func TestRestore(t *testing.T) {
	dir := t.TempDir()
	was := map[string]string{"cpu.max": "max 100000\n", "memory.max": "max\n", "io.max": "8:0 rbps=1\n8:16 rbps=2\n"}
	for name, data := range was {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := readLimits(map[string]string{"": dir}, map[string]string{"io.max": "8:0 rbps=9"})
	if len(before) != len(was) {
		t.Fatalf("%v", before)
	}
	if err := os.WriteFile(filepath.Join(dir, "cpu.max"), []byte("5 10\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "memory.max")); err != nil {
		t.Fatal(err)
	}
	if err := before.restore(); err != nil { // a cgroup that has gone needs nothing
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "cpu.max")); err != nil || strings.TrimSpace(string(data)) != "max 100000" {
		t.Errorf("%q, %v", data, err)
	}
}
