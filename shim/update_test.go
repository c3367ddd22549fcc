package shim_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/berthd/berth/shim"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// onV2 tells whether the host has cgroup v2 alone.
func onV2() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// A limit is a file of a container's cgroup on both versions, "controller/file", and
// what it says. An empty file means that the version has none, or that it cannot be
// told what is there.
type limit struct{ v1, v1Value, v2, v2Value string }

func (l limit) file(b *box) string {
	if onV2() {
		return filepath.Join("/sys/fs/cgroup", b.spec.Linux.CgroupsPath, l.v2)
	}
	controller, file, _ := strings.Cut(l.v1, "/")
	return filepath.Join("/sys/fs/cgroup", controller, b.spec.Linux.CgroupsPath, file)
}

// wanted is the value, "" for a version that has no such file.
func (l limit) wanted() string {
	if onV2() {
		return l.v2Value
	}
	return l.v1Value
}

func (b *box) checkLimits(limits []limit) {
	b.h.t.Helper()
	for _, l := range limits {
		if l.wanted() == "" {
			continue
		}
		data, err := os.ReadFile(l.file(b))
		if got := strings.TrimSpace(string(data)); err != nil || got != l.wanted() {
			b.h.t.Errorf("%s: %q, want %q (%v)", l.file(b), got, l.wanted(), err)
		}
	}
}

func cpuMax(quota, period string) []limit {
	v1 := quota
	if quota == "max" {
		v1 = "-1"
	}
	return []limit{{"cpu/cpu.cfs_quota_us", v1, "cpu.max", quota + " " + period}, {"cpu/cpu.cfs_period_us", period, "", ""}}
}

func memoryMax(most, v1Swap, v2Swap string) []limit {
	return []limit{
		{"memory/memory.limit_in_bytes", most, "memory.max", most},
		{"memory/memory.memsw.limit_in_bytes", v1Swap, "memory.swap.max", v2Swap},
	}
}

const (
	mib        = 1 << 20
	v1NoLimit  = "9223372036854771712"
	tenMiB     = "10485760"
	twentyMiB  = "20971520"
	thirtyMiB  = "31457280"
	hundredMiB = "104857600"
)

func cpu(c specs.LinuxCPU) *specs.LinuxResources { return &specs.LinuxResources{CPU: &c} }

func memory(most, swap int64) *specs.LinuxResources {
	m := &specs.LinuxMemory{}
	if most != 0 {
		m.Limit = &most
	}
	if swap != 0 {
		m.Swap = &swap
	}
	return &specs.LinuxResources{Memory: m}
}

// updates are requests, each made of a container of 20 MiB memory and as much swap,
// 50 ms of CPU in 100 ms and 512 shares, and what the kernel has after it. A nil want
// means refused, and nothing changed.
var updates = []struct {
	name string
	r    *specs.LinuxResources
	want []limit
	is   error // of one that is refused
}{
	{"nothing", &specs.LinuxResources{}, startLimits, nil},
	{"zeros", cpu(specs.LinuxCPU{Shares: new(uint64(0)), Quota: new(int64(0)), Period: new(uint64(0))}), startLimits, nil},
	{"cpu shares", cpu(specs.LinuxCPU{Shares: new(uint64(1024))}), []limit{{"cpu/cpu.shares", "1024", "cpu.weight", "100"}}, nil},
	{"cpu quota", cpu(specs.LinuxCPU{Quota: new(int64(20000))}), cpuMax("20000", "100000"), nil},
	{"cpu period", cpu(specs.LinuxCPU{Period: new(uint64(200000))}), cpuMax("50000", "200000"), nil},
	{"no cpu limit", cpu(specs.LinuxCPU{Quota: new(int64(-1))}), cpuMax("max", "100000"), nil},
	{"cpuset", cpu(specs.LinuxCPU{Cpus: "0", Mems: "0"}), []limit{
		{"cpuset/cpuset.cpus", "0", "cpuset.cpus", "0"}, {"cpuset/cpuset.mems", "0", "cpuset.mems", "0"}}, nil},
	{"more memory", memory(100*mib, 100*mib), memoryMax(hundredMiB, hundredMiB, "0"), nil},
	{"less memory, more swap", memory(10*mib, 100*mib), memoryMax(tenMiB, hundredMiB, "94371840"), nil},
	{"less memory, less of both", memory(10*mib, 30*mib), memoryMax(tenMiB, thirtyMiB, twentyMiB), nil},
	{"less memory, no swap", memory(10*mib, 10*mib), memoryMax(tenMiB, tenMiB, "0"), nil},
	{"all the swap there is", memory(20*mib, -1), memoryMax(twentyMiB, v1NoLimit, "max"), nil},
	{"no memory limit", memory(-1, -1), []limit{
		{"memory/memory.limit_in_bytes", v1NoLimit, "memory.max", "max"}, {"memory/memory.memsw.limit_in_bytes", v1NoLimit, "memory.swap.max", "max"}}, nil},
	{"processes", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(77))}}, []limit{{"pids/pids.max", "77", "pids.max", "77"}}, nil},
	{"below usage", memory(1*mib, 1*mib), nil, shim.ErrBelowUsage},
	{"below usage, with all else", &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Shares: new(uint64(1024)), Quota: new(int64(20000)), Cpus: "0"},
		Memory: &specs.LinuxMemory{Limit: new(int64(mib)), Swap: new(int64(mib))},
		Pids:   &specs.LinuxPids{Limit: new(int64(77))},
	}, nil, shim.ErrBelowUsage},
	{"no such CPU, after the rest", &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Shares: new(uint64(1024)), Quota: new(int64(20000)), Cpus: "4000"},
		Memory: &specs.LinuxMemory{Limit: new(int64(10 * mib)), Swap: new(int64(30 * mib))},
	}, nil, shim.ErrInvalid},
	{"a quota that is too small, after the rest", &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Shares: new(uint64(1024)), Quota: new(int64(1))},
		Memory: &specs.LinuxMemory{Limit: new(int64(10 * mib)), Swap: new(int64(-1))},
		Pids:   &specs.LinuxPids{Limit: new(int64(77))},
	}, nil, shim.ErrInvalid},
	{"swap below memory", memory(20*mib, 10*mib), nil, nil},
}

// startLimits are those of the container that is updated.
var startLimits = append(append([]limit{
	{"cpu/cpu.shares", "512", "cpu.weight", ""},
	{"pids/pids.max", "max", "pids.max", "max"},
}, cpuMax("50000", "100000")...), memoryMax(twentyMiB, "41943040", twentyMiB)...)

// limited is a container with startLimits that has taken 4 MiB of memory.
func (h *host) limited() *box {
	h.t.Helper()
	b := h.box("x=$(head -c 4194304 /dev/zero | tr '\\0' x); echo > /test/ready; read _ < /test/go; echo ${#x}")
	b.spec.Linux.Resources = &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Shares: new(uint64(512)), Quota: new(int64(50000)), Period: new(uint64(100000))},
		Memory: &specs.LinuxMemory{Limit: new(int64(20 * mib)), Swap: new(int64(40 * mib))},
	}
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/dev/zero", Type: "bind", Source: "/dev/zero", Options: []string{"bind"}})
	return b
}

func TestUpdateTable(t *testing.T) {
	h := newHost(t)
	for _, tt := range updates {
		t.Run(tt.name, func(t *testing.T) {
			b := h.limited()
			dir := b.share()
			fifo(t, dir, "ready")
			fifo(t, dir, "go")
			b.start()
			readFifo(t, dir, "ready")
			before := b.allLimits()
			err := h.Update(t.Context(), shim.UpdateRequest{ID: b.id, Resources: tt.r})
			if (err == nil) != (tt.want != nil) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Fatalf("update: %v", err)
			}
			if err != nil {
				t.Log(err)
			}
			b.checkLimits(tt.want)
			if after := b.allLimits(); err != nil && after != before {
				t.Errorf("a refused update changed\n%s\nto\n%s", before, after)
			}
			// Nobody was killed for it.
			writeFifo(t, dir, "go")
			if exit := b.wait(); exit.Code != 0 {
				t.Errorf("exit = %+v", exit)
			}
			if err := h.Delete(t.Context(), b.id); err != nil {
				t.Error(err)
			}
		})
	}
}

// allLimits is what the container's cgroups say of limits.
func (b *box) allLimits() string {
	b.h.t.Helper()
	var all strings.Builder
	for _, pattern := range []string{"cpu/%s/cpu.shares", "cpu/%s/cpu.cfs_*_us", "cpuset/%s/cpuset.cpus", "cpuset/%s/cpuset.mems",
		"memory/%s/memory*.limit_in_bytes", "pids/%s/pids.max", "%s/*.max", "%s/cpu.weight", "%s/cpuset.*"} {
		files, err := filepath.Glob("/sys/fs/cgroup/" + fmt.Sprintf(pattern, b.spec.Linux.CgroupsPath))
		if err != nil {
			b.h.t.Fatal(err)
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				b.h.t.Fatal(err)
			}
			fmt.Fprintf(&all, "%s %s\n", filepath.Base(f), strings.TrimSpace(string(data)))
		}
	}
	return all.String()
}

// A created container can be updated, an exited one not.
func TestUpdateStates(t *testing.T) {
	h := newHost(t)
	b := h.limited()
	if _, err := b.create(); err != nil {
		t.Fatal(err)
	}
	share := shim.UpdateRequest{ID: b.id, Resources: memory(10*mib, 30*mib), OOMScoreAdj: new(300)}
	if err := h.Update(t.Context(), share); err != nil {
		t.Fatal(err)
	}
	b.checkLimits(memoryMax(tenMiB, thirtyMiB, twentyMiB))
	if err := h.Kill(t.Context(), b.id, 9, true); err != nil {
		t.Fatal(err)
	}
	b.wait()
	if err := h.Update(t.Context(), share); !errors.Is(err, shim.ErrNotRunning) {
		t.Errorf("update of an exited container: %v", err)
	}
	share.ID = "nobody"
	if err := h.Update(t.Context(), share); !errors.Is(err, shim.ErrNotFound) {
		t.Errorf("update of nobody: %v", err)
	}
}

// The score of every process changes, now and of what is started later; that of a
// process which chose its own does not.
func TestUpdateOOMScore(t *testing.T) {
	h := newHost(t)
	b := h.box("(echo 900 > /proc/self/oom_score_adj; exec busybox sleep 39001) & busybox sleep 39002 & echo > /test/ready; wait")
	b.spec.Process.OOMScoreAdj = new(100)
	dir := b.share()
	fifo(t, dir, "ready")
	b.start()
	readFifo(t, dir, "ready")
	eventually(t, "the process has not chosen its score", func() bool { s := b.scores(); return s[100] == 2 && s[900] == 1 })

	if err := h.Update(t.Context(), shim.UpdateRequest{ID: b.id, OOMScoreAdj: new(400)}); err != nil {
		t.Fatal(err)
	}
	if got := b.scores(); got[400] != 2 || got[900] != 1 {
		t.Errorf("scores %v", got)
	}
	show := []string{"/bin/cat", "/proc/self/oom_score_adj"}
	if fixture.runtime != "" { // a program starts it with the old score, and the shim sees to it then
		show = []string{"/bin/sh", "-c", "for i in $(seq 1000); do read s < /proc/$$/oom_score_adj; [ $s = 400 ] && break; sleep 0.01; done; echo $s"}
	}
	res, err := h.ExecSync(t.Context(), shim.ExecRequest{ID: b.id, Process: newSpec("", show).Process})
	if err != nil || string(res.Stdout) != "400\n" {
		t.Errorf("of a new command: %q, %v", res.Stdout, err)
	}
	if got := b.scores(); len(got) != 2 {
		t.Errorf("scores %v", got)
	}
	// It fails as a whole.
	err = h.Update(t.Context(), shim.UpdateRequest{ID: b.id, Resources: cpu(specs.LinuxCPU{Shares: new(uint64(77))}), OOMScoreAdj: new(2000)})
	if err == nil {
		t.Error("a score of 2000 is taken")
	}
	b.checkLimits([]limit{{"cpu/cpu.shares", "1024", "cpu.weight", "100"}})
	if got := b.scores(); got[400] != 2 {
		t.Errorf("scores %v", got)
	}
}

// scores counts the processes of a container by their oom_score_adj.
func (b *box) scores() map[int]int {
	b.h.t.Helper()
	controller := "pids"
	if onV2() {
		controller = ""
	}
	data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, b.spec.Linux.CgroupsPath, "cgroup.procs"))
	if err != nil {
		b.h.t.Fatal(err)
	}
	found := map[int]int{}
	for pid := range strings.FieldsSeq(string(data)) {
		text, err := os.ReadFile("/proc/" + pid + "/oom_score_adj")
		if err != nil {
			continue
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			b.h.t.Fatal(err)
		}
		found[n]++
	}
	return found
}
