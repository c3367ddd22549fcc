package stats

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// fieldsOf are the numbers in a container's stats, by the names that tests have for them.
func fieldsOf(s *runtimeapi.ContainerStats) map[string]*uint64 {
	f := numbers{}
	f.cpuAndMemory(s.GetCpu(), s.GetMemory(), s.GetIo())
	f.add("swap usage", s.GetSwap().GetSwapUsageBytes())
	f.add("swap available", s.GetSwap().GetSwapAvailableBytes())
	return f
}

type numbers map[string]*uint64

func (f numbers) add(name string, n *runtimeapi.UInt64Value) {
	if n != nil {
		f[name] = new(n.GetValue())
	}
}

func (f numbers) addPressure(name string, p *runtimeapi.PsiStats) {
	if p != nil {
		f[name] = new(p.GetSome().GetTotal())
	}
}

func (f numbers) cpuAndMemory(c *runtimeapi.CpuUsage, m *runtimeapi.MemoryUsage, io *runtimeapi.IoUsage) {
	f.add("cpu", c.GetUsageCoreNanoSeconds())
	f.add("nano cores", c.GetUsageNanoCores())
	f.add("usage", m.GetUsageBytes())
	f.add("working set", m.GetWorkingSetBytes())
	f.add("rss", m.GetRssBytes())
	f.add("available", m.GetAvailableBytes())
	f.add("page faults", m.GetPageFaults())
	f.add("major page faults", m.GetMajorPageFaults())
	f.addPressure("cpu pressure", c.GetPsi())
	f.addPressure("memory pressure", m.GetPsi())
	f.addPressure("io pressure", io.GetPsi())
}

// consistent expects what is true of a container at any time. cgroup is its path.
func consistent(t *testing.T, s *runtimeapi.ContainerStats, cgroup string) {
	t.Helper()
	f := fieldsOf(s)
	for _, name := range []string{"cpu", "usage", "working set", "rss", "page faults", "major page faults"} {
		if f[name] == nil {
			t.Errorf("not told: %s", name)
			return
		}
	}
	if *f["working set"] > *f["usage"] || *f["working set"] == 0 {
		t.Errorf("working set %d of %d", *f["working set"], *f["usage"])
	}
	if f["available"] != nil {
		if limit := memoryLimit(t, cgroup); *f["available"]+*f["working set"] != limit {
			t.Errorf("available %d with a working set of %d, the limit is %d", *f["available"], *f["working set"], limit)
		}
	}
	for name, lacks := range lacking {
		if told := f[name] != nil; told && lacks() || !told && !lacks() && name != "swap available" { // which is none without a limit
			t.Errorf("%s is told: %t", name, told)
		}
	}
	if s.GetCpu().GetTimestamp() <= 0 || s.GetMemory().GetTimestamp() <= 0 || s.GetSwap() != nil && s.GetSwap().GetTimestamp() <= 0 ||
		s.GetIo() != nil && s.GetIo().GetTimestamp() <= 0 {
		t.Errorf("without a time: %v", s)
	}
}

// memoryLimit is what the kernel has.
func memoryLimit(t *testing.T, cgroup string) uint64 {
	t.Helper()
	file := "/sys/fs/cgroup/memory" + cgroup + "/memory.limit_in_bytes"
	if node.OnV2() {
		file = "/sys/fs/cgroup" + cgroup + "/memory.max"
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		t.Errorf("%s: %v", file, err)
	}
	return n
}

// podAnswers: a pod with a cgroup of its own is what that counts, the limit that kubelet
// gave it and its pressure included; a pod without is the sum of its containers.
func (b *bench) podAnswers(t *testing.T) {
	const slack = 4 * mib // the kernel counts memory in batches, for each CPU
	for i, id := range b.pods {
		own := i == 0
		linux := b.pod(t, id).GetLinux()
		f := numbers{}
		f.cpuAndMemory(linux.GetCpu(), linux.GetMemory(), linux.GetIo())
		sum := numbers{}
		for _, c := range linux.GetContainers() {
			for name, n := range fieldsOf(c) {
				sum[name] = new(*n + valueOf(sum[name]))
			}
		}
		for _, name := range []string{"cpu", "usage", "working set", "rss", "page faults", "major page faults"} {
			want := within(valueOf(sum[name]), valueOf(sum[name]))
			if own { // read a moment later, with more than the containers in it
				want = atLeast(valueOf(sum[name]) - min(valueOf(sum[name]), slack))
			}
			if !want.holds(f[name]) {
				t.Errorf("pod %d: %s: %s, want %v", i, name, text(f[name]), want)
			}
		}
		for _, name := range []string{"cpu pressure", "memory pressure", "io pressure"} {
			if told := f[name] != nil; told != (own && node.PressureCounted()) {
				t.Errorf("pod %d: %s is told: %t", i, name, told)
			}
		}
		if f["available"] != nil {
			t.Errorf("pod %d: available without a limit: %d", i, *f["available"])
		}
		until(t, "as many processes in a pod as in its containers", func() bool { // one may be ending
			n, metrics := uint64(0), b.metricsOf(t)
			for _, c := range linux.GetContainers() {
				n += valueOf(metrics[c.GetAttributes().GetId()]["container_processes"])
			}
			return n > 0 && n == b.pod(t, id).GetLinux().GetProcess().GetProcessCount().GetValue()
		})
		b.podNetwork(t, i, linux)
	}
	const limit = 512 * mib
	b.cgroup.Limit(t, cgroups.Resources{Memory: limit})
	if m := b.pod(t, b.pods[0]).GetLinux().GetMemory(); m.GetAvailableBytes().GetValue() != limit-m.GetWorkingSetBytes().GetValue() {
		t.Errorf("with a limit: %v", m)
	}
}

func valueOf(n *uint64) uint64 {
	if n == nil {
		return 0
	}
	return *n
}

// podNetwork has a container of a pod speak to its gateway, which is counted.
func (b *bench) podNetwork(t *testing.T, i int, before *runtimeapi.LinuxPodSandboxStats) {
	t.Helper()
	resp, err := b.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: before.GetContainers()[0].GetAttributes().GetId(), Timeout: 60,
		Cmd: []string{"sh", "-c", "ping -c 1 $(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p')"}})
	if err != nil || resp.GetExitCode() != 0 {
		t.Fatalf("%v, %v", resp, err)
	}
	was, is := before.GetNetwork().GetDefaultInterface(), b.pod(t, b.pods[i]).GetLinux().GetNetwork().GetDefaultInterface()
	for what, n := range map[string][2]*runtimeapi.UInt64Value{"sent": {was.GetTxBytes(), is.GetTxBytes()}, "received": {was.GetRxBytes(), is.GetRxBytes()}} {
		if n[0] == nil || n[1] == nil || n[1].GetValue() < n[0].GetValue()+84 { // one packet of ping's
			t.Errorf("pod %d: %s: %v", i, what, fmt.Sprint(n))
		}
	}
}
