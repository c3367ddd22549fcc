package cgroupstat

import (
	"math"
	"os"
	"path/filepath"
	"strings"
)

// v2 reads a cgroup of the unified hierarchy (Documentation/admin-guide/cgroup-v2.rst).
func (r *reading) v2(dir string) {
	r.cpuStat(dir)
	r.memoryV2(dir)
	r.swapV2(dir)
	r.out.Tasks = r.maybe(dir, "pids.current")
	if !r.all || r.err != nil {
		return
	}
	r.out.TasksMax = r.maybe(dir, "pids.max")
	r.cpuLimitsV2(dir)
	text, _ := r.optional(dir, "io.stat")
	r.out.IO = ioStat(text)
	for _, size := range pageSizes(dir, ".current") {
		r.out.HugePages = append(r.out.HugePages, HugePages{Size: size, Usage: r.maybe(dir, "hugetlb."+size+".current")})
	}
}

// cpuStat reads cpu.stat, which every cgroup of v2 has.
func (r *reading) cpuStat(dir string) {
	const us = 1000
	c := &r.out.CPU
	pairs(r.text(dir, "cpu.stat"), func(key string, n uint64) {
		switch key {
		case "usage_usec":
			c.Usage = n * us
		case "user_usec":
			c.User = n * us
		case "system_usec":
			c.System = n * us
		case "nr_periods":
			c.Periods = n
		case "nr_throttled":
			c.ThrottledPeriods = n
		case "throttled_usec":
			c.ThrottledTime = n * us
		}
	})
}

func (r *reading) cpuLimitsV2(dir string) {
	if text, ok := r.optional(dir, "cpu.max"); ok { // "max 100000", "20000 100000"
		quota, period, _ := strings.Cut(text, " ")
		r.out.CPU.Quota, r.out.CPU.Period = value(quota), value(period)
	}
	if weight := r.maybe(dir, "cpu.weight"); weight > 0 {
		r.out.CPU.Shares = shares(weight)
	}
}

// shares are those that libcontainer makes a weight of, or near them: weights are
// coarser. It is the inverse of the conversion that runc has since 1.3.2 and crun since
// 1.23, in which the default of 1024 shares is the default weight of 100:
// log10(weight) = (l² + 125 l) / 612 - 7/34, where l is log2(shares).
func shares(weight uint64) uint64 {
	l := (math.Sqrt(125*125+4*612*(math.Log10(float64(weight))+7.0/34)) - 125) / 2
	return uint64(math.Round(math.Exp2(l)))
}

func (r *reading) memoryV2(dir string) {
	m := &r.out.Memory
	text, ok := r.optional(dir, "memory.current")
	if !ok {
		return // the controller is not enabled for it
	}
	m.Usage = value(text)
	m.Limit = r.maybe(dir, "memory.max")
	var stat string
	stat, _ = r.optional(dir, "memory.stat")
	pairs(stat, func(key string, n uint64) {
		switch key {
		case "anon":
			m.RSS = n
		case "file":
			m.Cache = n
		case "file_mapped":
			m.MappedFile = n
		case "kernel":
			m.Kernel = n
		case "active_file":
			m.ActiveFile = n
		case "inactive_file":
			m.InactiveFile = n
		case "active_anon":
			m.ActiveAnon = n
		case "inactive_anon":
			m.InactiveAnon = n
		case "pgfault":
			m.Faults, m.LocalFaults = n, n
		case "pgmajfault":
			m.MajorFaults, m.LocalMajorFaults = n, n
		}
	})
	m.WorkingSet = minus(m.Usage, m.InactiveFile)
	if !r.all {
		return
	}
	m.Peak = r.maybe(dir, "memory.peak")
	m.Reservation = r.maybe(dir, "memory.min")
	events, _ := r.optional(dir, "memory.events")
	pairs(events, func(key string, n uint64) {
		switch key {
		case "max":
			m.LimitHits = n
		case "oom_kill":
			m.OOMKills = n
		}
	})
}

func (r *reading) swapV2(dir string) {
	usage, ok := r.optional(dir, "memory.swap.current")
	if !ok {
		return
	}
	most, ok := r.optional(dir, "memory.swap.max")
	most = strings.TrimSpace(most)
	r.out.Swap = Swap{Known: true, Usage: value(usage), Limited: ok && most != "max", Limit: value(most)}
}

// pressure reads the pressure files of a cgroup of the unified hierarchy, where there
// is one.
func (r *reading) pressure(dir string) {
	for name, to := range map[string]**Stall{
		"cpu.pressure": &r.out.Pressure.CPU, "memory.pressure": &r.out.Pressure.Memory, "io.pressure": &r.out.Pressure.IO,
	} {
		if text, ok := r.optional(dir, name); ok {
			*to = stall(text)
		}
	}
}

// pageSizes lists the sizes of huge pages that a cgroup counts, by its files
// "hugetlb.<size><suffix>".
func pageSizes(dir, suffix string) []string {
	files, err := filepath.Glob(filepath.Join(dir, "hugetlb.*"+suffix))
	if err != nil {
		return nil
	}
	var sizes []string
	for _, f := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "hugetlb."), suffix)
		if !strings.Contains(name, ".") { // 2MB.rsvd counts reservations
			sizes = append(sizes, name)
		}
	}
	return sizes
}

// exists tells whether the cgroup at dir is there.
func exists(dir string) bool {
	_, err := os.Stat(dir)
	return err == nil
}
