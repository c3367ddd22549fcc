package scope

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/godbus/dbus/v5"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/systemd"
)

// Limits are the properties that say of a scope what r says of its cgroup, so that
// systemd, whenever it writes the cgroup's files, writes the same. What systemd has no
// property for it does not write.
//
// systemd keeps a CPU quota in whole percents. One with a fraction is rounded up, in r
// too, so that the file says the same before and after a reload.
func Limits(r *cgroups.Resources) ([]Property, error) {
	var all []Property
	add := func(name string, value any) { all = append(all, Property{name, dbus.MakeVariant(value)}) }
	if r.Memory != 0 {
		add("MemoryMax", uint64(r.Memory)) // -1 is infinity
	}
	if r.MemoryReservation != 0 {
		add("MemoryLow", uint64(r.MemoryReservation))
	}
	swap, err := cgroups.ConvertMemorySwapToCgroupV2Value(r.MemorySwap, r.Memory)
	if err != nil {
		return nil, err
	}
	if swap != 0 || r.MemorySwap > 0 { // 0 is none; what was not said is libcontainer's 0 too
		add("MemorySwapMax", uint64(swap))
	}
	if r.CpuWeight != 0 {
		add("CPUWeight", r.CpuWeight)
	}
	if r.BlkioWeight != 0 {
		add("IOWeight", cgroups.ConvertBlkIOToIOWeightValue(r.BlkioWeight))
	}
	if r.PidsLimit != nil {
		add("TasksMax", tasksMax(*r.PidsLimit))
	}
	r.CpuQuota = cpuQuota(r.CpuQuota, r.CpuPeriod, add)
	if err := cpuset("AllowedCPUs", r.CpusetCpus, add); err != nil {
		return nil, err
	}
	if err := cpuset("AllowedMemoryNodes", r.CpusetMems, add); err != nil {
		return nil, err
	}
	return all, unified(r.Unified, add)
}

// tasksMax is systemd's number for a limit of pids; it takes no 0.
func tasksMax(limit int64) uint64 {
	if limit < 0 {
		return math.MaxUint64
	}
	return uint64(max(limit, 1))
}

// cpuQuota adds a quota in µs per period, and returns it as systemd keeps it.
func cpuQuota(quota int64, period uint64, add func(string, any)) int64 {
	if period > 1_000_000 {
		return quota // the kernel refuses it
	}
	if period != 0 {
		add("CPUQuotaPeriodUSec", period)
	}
	switch {
	case quota > 0:
		if period == 0 {
			period = 100_000 // the kernel's
		}
		const percent = 10_000 // µs of a second
		perSecond := (uint64(quota)*1_000_000/period + percent - 1) / percent * percent
		if uint64(quota)*1_000_000%(period*percent) != 0 {
			quota = int64(perSecond * period / 1_000_000)
		}
		add("CPUQuotaPerSecUSec", perSecond)
	case quota < 0 || period != 0:
		add("CPUQuotaPerSecUSec", uint64(math.MaxUint64))
	}
	return quota
}

// cpuset adds a set of CPUs or memory nodes, "" being none.
func cpuset(name, set string, add func(string, any)) error {
	if set == "" {
		return nil
	}
	bits, err := systemd.RangeToBits(set)
	if err != nil {
		return fmt.Errorf("cpuset %q: %w", set, err)
	}
	add(name, bits)
	return nil
}

// unified adds the properties for files named by the caller. A value that the kernel
// would not take is left to it to refuse.
func unified(files map[string]string, add func(string, any)) error {
	names := map[string]string{
		"memory.min": "MemoryMin", "memory.low": "MemoryLow", "memory.high": "MemoryHigh", "memory.max": "MemoryMax",
		"memory.swap.max": "MemorySwapMax", "pids.max": "TasksMax", "cpu.weight": "CPUWeight", "io.weight": "IOWeight",
		"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes",
	}
	for file, value := range files {
		value = strings.TrimSpace(value)
		name := names[file]
		var err error
		switch {
		case file == "cpu.max":
			err = cpuMax(value, add)
		case name == "", file == "io.weight" && strings.Contains(value, ":"): // of one device
		case strings.HasPrefix(file, "cpuset."):
			err = cpuset(name, value, add)
		default:
			n := uint64(math.MaxUint64)
			if value != "max" {
				n, err = strconv.ParseUint(strings.TrimPrefix(value, "default "), 10, 64)
			}
			add(name, n)
		}
		if err != nil {
			return fmt.Errorf("unified resource %s: %w", file, err)
		}
	}
	return nil
}

// cpuMax adds what a cpu.max file says: a quota or max, and perhaps a period.
func cpuMax(value string, add func(string, any)) error {
	said, after, _ := strings.Cut(value, " ")
	quota, period := int64(-1), uint64(0)
	var err error
	if said != "max" {
		if quota, err = strconv.ParseInt(said, 10, 64); err != nil {
			return err
		}
	}
	if after = strings.TrimSpace(after); after != "" {
		if period, err = strconv.ParseUint(after, 10, 64); err != nil {
			return err
		}
	}
	cpuQuota(quota, period, add)
	return nil
}
