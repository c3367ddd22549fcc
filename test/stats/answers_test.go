package stats

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

type limits = runtimeapi.LinuxContainerResources

const mib = 1 << 20

// A span is what a number may be; nil: there is none.
type span struct{ low, high uint64 }

func exactly(n uint64) *span        { return &span{n, n} }
func within(low, high uint64) *span { return &span{low, high} }
func atLeast(low uint64) *span      { return &span{low, math.MaxUint64} }
func near(n uint64) *span           { return &span{n - n/50, n + n/50} } // a weight of v2 is coarser than shares
func (s *span) holds(n *uint64) bool {
	return s == nil && n == nil || s != nil && n != nil && s.low <= *n && *n <= s.high
}

func (s *span) String() string {
	if s == nil {
		return "none"
	}
	return fmt.Sprintf("%d to %d", s.low, s.high)
}

// An answer is what fields of stats, and metrics by their names, come to.
type answer map[string]*span

// answers are containers and what is said of them, whatever the cgroup version and the
// driver. A kernel without what lacking names says less.
var answers = []struct {
	name   string
	limits *limits
	script string
	want   answer
	update *limits // then
	after  answer
}{
	{"no limits", &limits{}, "sleep 100000",
		answer{"available": nil, "swap available": nil, "swap usage": exactly(0), "rss": within(1, 16*mib), "page faults": atLeast(1), "major page faults": atLeast(0),
			"container_spec_memory_limit_bytes": exactly(0), "container_spec_memory_swap_limit_bytes": exactly(0),
			"container_spec_cpu_quota": nil, "container_spec_cpu_period": exactly(100000), "container_processes": exactly(1)},
		&limits{MemoryLimitInBytes: 48 * mib, CpuQuota: 50000, CpuPeriod: 100000},
		answer{"available": within(16*mib, 48*mib), "swap available": exactly(0),
			"container_spec_memory_limit_bytes": exactly(48 * mib), "container_spec_cpu_quota": exactly(50000)}},
	{"memory", &limits{MemoryLimitInBytes: 64 * mib}, "sleep 100000",
		answer{"available": within(32*mib, 64*mib), "swap available": exactly(0), "container_spec_memory_limit_bytes": exactly(64 * mib)},
		&limits{MemoryLimitInBytes: 32 * mib},
		answer{"available": within(16*mib, 32*mib), "swap available": exactly(0), "container_spec_memory_limit_bytes": exactly(32 * mib)}},
	{"memory and swap", &limits{MemoryLimitInBytes: 32 * mib, MemorySwapLimitInBytes: 48 * mib}, "sleep 100000",
		answer{"available": within(16*mib, 32*mib), "swap available": exactly(16 * mib), "swap usage": exactly(0),
			"container_spec_memory_swap_limit_bytes": exactly(16 * mib)},
		&limits{MemoryLimitInBytes: 40 * mib, MemorySwapLimitInBytes: 48 * mib},
		answer{"available": within(24*mib, 40*mib), "swap available": exactly(8 * mib)}},
	{"all the swap there is", &limits{MemoryLimitInBytes: 32 * mib, MemorySwapLimitInBytes: -1}, "sleep 100000",
		answer{"available": within(16*mib, 32*mib), "swap available": nil, "container_spec_memory_swap_limit_bytes": exactly(0)},
		&limits{MemoryLimitInBytes: -1, MemorySwapLimitInBytes: -1},
		answer{"available": nil, "swap available": nil, "container_spec_memory_limit_bytes": exactly(0)}},
	{"memory of its own", &limits{MemoryLimitInBytes: 64 * mib}, "x=$(head -c 8388608 /dev/zero | tr '\\0' a); while :; do sleep 100000; done",
		answer{"rss": within(8*mib, 48*mib), "working set": within(8*mib, 48*mib), "available": within(16*mib, 56*mib)}, nil, nil},
	{"memory that is shared", &limits{MemoryLimitInBytes: 64 * mib}, "dd if=/dev/zero of=/dev/shm/held bs=1M count=8; sleep 100000",
		answer{"rss": within(1, 4*mib), "working set": within(8*mib, 16*mib), "available": within(48*mib, 56*mib)}, nil, nil},
	{"files", &limits{MemoryLimitInBytes: 64 * mib}, "dd if=/dev/zero of=/file bs=1M count=8; sleep 100000",
		answer{"usage": atLeast(8 * mib), "working set": within(1, 6*mib), "container_memory_cache": atLeast(8 * mib)}, nil, nil},
	{"processes", &limits{}, "sleep 100000 & sleep 100000 & wait",
		answer{"container_processes": exactly(3), "container_threads": exactly(3)}, nil, nil},
	{"a quota", &limits{CpuShares: 512, CpuPeriod: 100000, CpuQuota: 20000}, "while :; do :; done",
		answer{"cpu": atLeast(1e8), "nano cores": within(1e7, 3e8), "cpu pressure": atLeast(1),
			"container_cpu_cfs_periods_total": atLeast(2), "container_cpu_cfs_throttled_periods_total": atLeast(1),
			"container_spec_cpu_quota": exactly(20000), "container_spec_cpu_period": exactly(100000), "container_spec_cpu_shares": near(512)},
		&limits{CpuShares: 1024, CpuQuota: 10000},
		answer{"nano cores": within(1e6, 3e8), "container_spec_cpu_quota": exactly(10000), "container_spec_cpu_shares": near(1024)}},
	// systemd keeps quotas in whole percents, with either version.
	{"a quota of no whole percents", &limits{CpuPeriod: 100000, CpuQuota: 12345}, "sleep 100000",
		answer{"container_spec_cpu_quota": exactly(perDriver(12345, 13000)), "container_spec_cpu_shares": atLeast(1)}, nil, nil},
}

func perDriver(cgroupfs, systemd uint64) uint64 {
	if node.SystemdCgroup() {
		return systemd
	}
	return cgroupfs
}

// lacking are fields that a kernel may not tell, or not have a hierarchy for, and whether
// this one does not: then there is none, whatever is asked about.
var lacking = map[string]func() bool{
	"swap usage":      func() bool { return !node.SwapCounted() },
	"swap available":  func() bool { return !node.SwapCounted() },
	"cpu pressure":    func() bool { return !node.PressureCounted() },
	"memory pressure": func() bool { return !node.PressureCounted() },
	"io pressure":     func() bool { return !node.PressureCounted() },
}

func (a answer) of(field string) *span {
	if lacks := lacking[field]; lacks != nil && lacks() || strings.Contains(field, "_swap_") && !node.SwapCounted() {
		if strings.HasPrefix(field, "container_") {
			return exactly(0)
		}
		return nil
	}
	return a[field]
}

// wrong says what of a container is not as a wants it.
func (b *bench) wrong(t *testing.T, a answer, id string) []string {
	t.Helper()
	var bad []string
	got := fieldsOf(b.stats(t, id))
	var metrics map[string]*uint64
	for name := range a {
		if strings.HasPrefix(name, "container_") && metrics == nil {
			metrics = b.metricsOf(t)[id]
		}
		n := got[name]
		if strings.HasPrefix(name, "container_") {
			n = metrics[name]
		}
		if want := a.of(name); !want.holds(n) {
			bad = append(bad, fmt.Sprintf("%s: %s, want %v", name, text(n), want))
		}
	}
	slices.Sort(bad)
	return bad
}

func text(n *uint64) string {
	if n == nil {
		return "none"
	}
	return fmt.Sprint(*n)
}

// metricsOf is the metrics of each container, by name.
func (b *bench) metricsOf(t *testing.T) map[string]map[string]*uint64 {
	t.Helper()
	resp, err := b.ListPodSandboxMetrics(t.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]map[string]*uint64{}
	for _, p := range resp.GetPodMetrics() {
		for _, c := range p.GetContainerMetrics() {
			byName := map[string]*uint64{}
			for _, m := range c.GetMetrics() {
				byName[m.GetName()] = new(m.GetValue().GetValue())
			}
			found[c.GetContainerId()] = byName
		}
	}
	return found
}

// TestAnswers asks the same about the same containers and pods on both versions of
// cgroups and with both drivers, and expects the same.
func TestAnswers(t *testing.T) {
	b := open(t)
	for i, tt := range answers {
		t.Run(tt.name, func(t *testing.T) {
			conf := node.Container(fmt.Sprint("c", i), busybox, "sh", "-c", tt.script)
			conf.Linux.Resources = tt.limits
			id, err := b.Run(t.Context(), b.pods[0], b.configs[0], conf)
			if err != nil {
				t.Fatal(err)
			}
			b.comes(t, tt.want, id)
			if tt.update != nil {
				if _, err := b.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: tt.update}); err != nil {
					t.Fatal(err)
				}
				b.comes(t, tt.after, id)
			}
		})
	}
	conf := node.Container("single", busybox, "sleep", "100000")
	if _, err := b.Run(t.Context(), b.pods[1], b.configs[1], conf); err != nil {
		t.Fatal(err)
	}
	t.Run("pods", b.podAnswers)
}

// comes waits until a container's stats are as a wants them; the kernel counts some
// things late. Each answer on the way is consistent.
func (b *bench) comes(t *testing.T, a answer, id string) {
	t.Helper()
	var bad []string
	cpu := uint64(0)
	defer func() {
		for _, line := range bad {
			t.Error(line)
		}
	}()
	until(t, "as it is to be", func() bool {
		s := b.stats(t, id)
		if n := s.GetCpu().GetUsageCoreNanoSeconds().GetValue(); n < cpu {
			t.Errorf("CPU time went back from %d to %d", cpu, n)
		} else {
			cpu = n
		}
		consistent(t, s, b.cgroup.Path(id))
		bad = b.wrong(t, a, id)
		return len(bad) == 0
	})
}
