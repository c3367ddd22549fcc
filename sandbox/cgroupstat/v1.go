package cgroupstat

import (
	"fmt"
	"io/fs"
	"path/filepath"
)

// clockTick is the unit of cpuacct.stat in nanoseconds: USER_HZ is 100 on every
// architecture that Kubernetes runs on.
const clockTick = 10_000_000

// v1 reads a cgroup of the v1 hierarchies (Documentation/admin-guide/cgroup-v1). Of a
// controller that is not mounted, nothing is known.
func (r *reading) v1(t *Tree) {
	if acct := t.dirs["cpuacct"]; acct != "" {
		r.out.CPU.Usage = r.number(acct, "cpuacct.usage")
	} else if !exists(filepath.Join(t.dirs["memory"], r.path)) {
		r.err = fmt.Errorf("cgroup: %s: %w", r.path, fs.ErrNotExist)
	}
	if memory := t.dirs["memory"]; memory != "" {
		r.memoryV1(memory)
	}
	if !r.all || r.err != nil {
		return
	}
	if pids := t.dirs["pids"]; pids != "" {
		r.out.Tasks = r.maybe(pids, "pids.current")
		r.out.TasksMax = r.maybe(pids, "pids.max")
	}
	r.cpuV1(t.dirs["cpuacct"], t.dirs["cpu"])
	if io := t.dirs["blkio"]; io != "" {
		text, _ := r.optional(io, "blkio.throttle.io_service_bytes_recursive")
		bytes := string(text) // the next reading takes its place
		ops, _ := r.optional(io, "blkio.throttle.io_serviced_recursive")
		r.out.IO = blkio(bytes, string(ops))
	}
	if huge := t.dirs["hugetlb"]; huge != "" {
		for _, size := range pageSizes(filepath.Join(huge, r.path), ".usage_in_bytes") {
			r.out.HugePages = append(r.out.HugePages, HugePages{Size: size,
				Usage: r.maybe(huge, "hugetlb."+size+".usage_in_bytes"),
				Peak:  r.maybe(huge, "hugetlb."+size+".max_usage_in_bytes")})
		}
	}
}

func (r *reading) cpuV1(acct, cpu string) {
	c := &r.out.CPU
	if acct != "" {
		stat, _ := r.optional(acct, "cpuacct.stat")
		pairs(stat, func(key []byte, n uint64) {
			switch string(key) {
			case "user":
				c.User = n * clockTick
			case "system":
				c.System = n * clockTick
			}
		})
	}
	if cpu == "" {
		return
	}
	stat, _ := r.optional(cpu, "cpu.stat")
	pairs(stat, func(key []byte, n uint64) {
		switch string(key) {
		case "nr_periods":
			c.Periods = n
		case "nr_throttled":
			c.ThrottledPeriods = n
		case "throttled_time":
			c.ThrottledTime = n
		}
	})
	c.Shares = r.maybe(cpu, "cpu.shares")
	c.Period = r.maybe(cpu, "cpu.cfs_period_us")
	c.Quota = r.maybe(cpu, "cpu.cfs_quota_us") // "-1" is no number of ours: no limit
}

// memoryV1 reads the memory controller. The counters of memory.stat that begin with
// "total_" count the cgroups below too.
func (r *reading) memoryV1(mount string) {
	m := &r.out.Memory
	m.Usage = r.number(mount, "memory.usage_in_bytes")
	text, _ := r.optional(mount, "memory.limit_in_bytes")
	m.Limit = limit(text)
	swap := uint64(0)
	stat, _ := r.optional(mount, "memory.stat")
	pairs(stat, func(key []byte, n uint64) {
		switch string(key) {
		case "total_rss":
			m.RSS = n
		case "total_cache":
			m.Cache = n
		case "total_mapped_file":
			m.MappedFile = n
		case "total_active_file":
			m.ActiveFile = n
		case "total_inactive_file":
			m.InactiveFile = n
		case "total_active_anon":
			m.ActiveAnon = n
		case "total_inactive_anon":
			m.InactiveAnon = n
		case "total_pgfault":
			m.Faults = n
		case "total_pgmajfault":
			m.MajorFaults = n
		case "pgfault":
			m.LocalFaults = n
		case "pgmajfault":
			m.LocalMajorFaults = n
		case "total_swap":
			swap = n
		}
	})
	m.WorkingSet = minus(m.Usage, m.InactiveFile)
	r.swapV1(mount, swap)
	if r.all {
		r.memoryDetailV1(mount)
	}
}

// swapV1 needs the limit of memory and swap together, which is there only with swap
// accounting.
func (r *reading) swapV1(mount string, usage uint64) {
	text, ok := r.optional(mount, "memory.memsw.limit_in_bytes")
	if !ok {
		return
	}
	both := limit(text)
	r.out.Swap = Swap{Known: true, Usage: usage, Limited: both > 0, Limit: minus(both, r.out.Memory.Limit)}
}

func (r *reading) memoryDetailV1(mount string) {
	m := &r.out.Memory
	m.Kernel = r.maybe(mount, "memory.kmem.usage_in_bytes")
	m.Peak = r.maybe(mount, "memory.max_usage_in_bytes")
	m.LimitHits = r.maybe(mount, "memory.failcnt")
	soft, _ := r.optional(mount, "memory.soft_limit_in_bytes")
	m.Reservation = limit(soft)
	oom, _ := r.optional(mount, "memory.oom_control")
	pairs(oom, func(key []byte, n uint64) {
		if string(key) == "oom_kill" {
			m.OOMKills = n
		}
	})
}
