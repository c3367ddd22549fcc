package cgroupstat

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
)

// v2 reads a cgroup of the unified hierarchy (Documentation/admin-guide/cgroup-v2.rst).
func (r *reading) v2(mount string) {
	r.cpuStat(mount)
	r.memoryV2(mount)
	r.swapV2(mount)
	if !r.all || r.err != nil {
		return
	}
	r.out.Tasks = r.maybe(mount, "pids.current")
	r.out.TasksMax = r.maybe(mount, "pids.max")
	r.cpuLimitsV2(mount)
	text, _ := r.optional(mount, "io.stat")
	r.out.IO = ioStat(string(text))
	for _, size := range pageSizes(filepath.Join(mount, r.path), ".current") {
		r.out.HugePages = append(r.out.HugePages, HugePages{Size: size, Usage: r.maybe(mount, "hugetlb."+size+".current")})
	}
}

// cpuStat reads cpu.stat, which every cgroup of v2 has.
func (r *reading) cpuStat(mount string) {
	const us = 1000
	c := &r.out.CPU
	pairs(r.text(mount, "cpu.stat"), func(key []byte, n uint64) {
		switch string(key) {
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

func (r *reading) cpuLimitsV2(mount string) {
	if text, ok := r.optional(mount, "cpu.max"); ok { // "max 100000", "20000 100000"
		quota, period := next(text, ' ')
		r.out.CPU.Quota, r.out.CPU.Period = value(quota), value(period)
	}
	if weight := r.maybe(mount, "cpu.weight"); weight > 0 {
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

func (r *reading) memoryV2(mount string) {
	m := &r.out.Memory
	text, ok := r.optional(mount, "memory.current")
	if !ok {
		return // the controller is not enabled for it
	}
	m.Usage = value(text)
	m.Limit = r.maybe(mount, "memory.max")
	stat, _ := r.optional(mount, "memory.stat")
	pairs(stat, func(key []byte, n uint64) {
		switch string(key) {
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
	m.Peak = r.maybe(mount, "memory.peak")
	m.Reservation = r.maybe(mount, "memory.min")
	events, _ := r.optional(mount, "memory.events")
	pairs(events, func(key []byte, n uint64) {
		switch string(key) {
		case "max":
			m.LimitHits = n
		case "oom_kill":
			m.OOMKills = n
		}
	})
}

func (r *reading) swapV2(mount string) {
	text, ok := r.optional(mount, "memory.swap.current")
	if !ok {
		return
	}
	r.out.Swap = Swap{Known: true, Usage: value(text)}
	if text, ok = r.optional(mount, "memory.swap.max"); ok {
		r.out.Swap.Limited, r.out.Swap.Limit = string(bytes.TrimSpace(text)) != "max", value(text)
	}
}

// pressure reads the pressure files of a cgroup of the unified hierarchy, where there
// is one.
func (r *reading) pressure(mount string) {
	p := &r.out.Pressure
	var stalls *[3]Stall
	for i, f := range [...]struct {
		name string
		to   **Stall
	}{{"cpu.pressure", &p.CPU}, {"memory.pressure", &p.Memory}, {"io.pressure", &p.IO}} {
		text, ok := r.optional(mount, f.name)
		if !ok {
			continue
		}
		if stalls == nil {
			stalls = new([3]Stall)
		}
		stalls[i] = stall(text)
		*f.to = &stalls[i]
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
