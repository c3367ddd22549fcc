package keeper

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// limitFiles are the files that an update may write, by controller as libcontainer
// calls them; "" is cgroup v2.
var limitFiles = map[string][]string{
	"cpu":     {"cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.cfs_burst_us", "cpu.idle"},
	"cpuset":  {"cpuset.cpus", "cpuset.mems"},
	"memory":  {"memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes"},
	"pids":    {"pids.max"},
	"hugetlb": {"hugetlb.*.limit_in_bytes"},
	"": {"cpu.weight", "cpu.max", "cpu.max.burst", "cpu.idle", "cpuset.cpus", "cpuset.mems",
		"memory.max", "memory.swap.max", "memory.low", "pids.max", "hugetlb.*.max"},
}

// limits are the files of a cgroup that an update may write, by path, and what they
// said before it.
type limits map[string]string

// readLimits reads them. paths are a container's cgroups by controller; unified are
// files that are written beside the usual ones.
func readLimits(paths map[string]string, unified map[string]string) limits {
	found := limits{}
	for controller, names := range limitFiles {
		dir := paths[controller]
		if dir == "" {
			continue
		}
		if controller == "" {
			names = append(slices.Clone(names), slices.Collect(maps.Keys(unified))...)
		}
		for _, name := range names {
			files, _ := filepath.Glob(filepath.Join(dir, name)) // the patterns are good
			for _, f := range files {
				if data, err := os.ReadFile(f); err == nil {
					found[f] = string(data)
				}
			}
		}
	}
	return found
}

// restorePasses is how often limits are written back: the kernel takes some of them
// only after others, memory.limit_in_bytes and memory.memsw.limit_in_bytes say.
const restorePasses = 3

// restore makes every file say again what it said. A key that an update has added
// to a file of many (io.max) stays.
func (l limits) restore() error {
	var err error
	for range restorePasses {
		err = nil
		for path, was := range l {
			err = errors.Join(err, writeBack(path, was))
		}
		if err == nil {
			break
		}
	}
	return err
}

func writeBack(path, was string) error {
	now, err := os.ReadFile(path)
	if gone(err) || err == nil && string(now) == was {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(was) { // the kernel takes one key at a time
		if err := os.WriteFile(path, []byte(strings.TrimSuffix(line, "\n")), 0); err != nil {
			return err
		}
	}
	return nil
}

// lowerMemory lowers the memory limits to those of r, where they are lower than now.
// It goes before all else of an update, since it is what may be refused:
// errBelowUsage, and then nothing has changed.
//
// On cgroup v1 the kernel reclaims what it can, and refuses. On v2 it would kill, so
// what is in use is reclaimed and compared before memory.max is written. A container
// that grows just then is killed as it would be a moment later.
func (g cgroup) lowerMemory(r *specs.LinuxResources) error {
	if g.memory == "" {
		return nil
	}
	if g.controller == "" {
		return g.fitMemory(unifiedLimit(r))
	}
	m := r.Memory
	if m == nil {
		return nil
	}
	if err := g.lowerV1("memory", "memory limit", m.Limit); err != nil {
		return err
	}
	return g.lowerV1("memory.memsw", "memory and swap limit", m.Swap)
}

// lowerV1 writes a limit of cgroup v1 if it is lower than the one there is.
func (g cgroup) lowerV1(prefix, what string, limit *int64) error {
	file := filepath.Join(g.memory, prefix+".limit_in_bytes")
	if limit == nil || *limit <= 0 || *limit >= readBytes(file) {
		return nil
	}
	err := os.WriteFile(file, []byte(strconv.FormatInt(*limit, 10)), 0)
	if isBusy(err) {
		return belowUsage(what, *limit, readBytes(filepath.Join(g.memory, prefix+".usage_in_bytes")))
	}
	return err
}

// unifiedLimit is what memory.max of cgroup v2 is to be: 0 for what it is.
func unifiedLimit(r *specs.LinuxResources) int64 {
	if text, ok := r.Unified["memory.max"]; ok { // written last, so it counts
		return parseBytes(text)
	}
	if r.Memory == nil || r.Memory.Limit == nil {
		return 0
	}
	return *r.Memory.Limit
}

// fitMemory makes what is in use of a cgroup v2 fit limit, if limit is lower than
// the one there is.
func (g cgroup) fitMemory(limit int64) error {
	if limit <= 0 || limit >= readBytes(filepath.Join(g.memory, "memory.max")) {
		return nil
	}
	current, reclaim := filepath.Join(g.memory, "memory.current"), filepath.Join(g.memory, "memory.reclaim")
	usage := readBytes(current)
	if usage <= limit {
		return nil
	}
	if _, err := os.Stat(reclaim); err == nil { // Linux 5.19
		_ = writeOnce(reclaim, strconv.FormatInt(usage-limit, 10)) // what it could not, shows next
		usage = readBytes(current)
	} else {
		usage -= inactiveFile(filepath.Join(g.memory, "memory.stat")) // goes when it must
	}
	if usage > limit {
		return belowUsage("memory limit", limit, usage)
	}
	return nil
}

func belowUsage(what string, limit, usage int64) error {
	return fmt.Errorf("%s: %d bytes are asked for and %d bytes in use: %w", what, limit, usage, errBelowUsage)
}

// inactiveFile is how much of a cgroup v2's memory is cache that nobody has used
// lately, in bytes.
func inactiveFile(stat string) int64 {
	data, err := os.ReadFile(stat)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "inactive_file "); ok {
			return parseBytes(v)
		}
	}
	return 0
}

// readBytes reads a file with one number. What is not there is without limit.
func readBytes(file string) int64 {
	data, err := os.ReadFile(file)
	if err != nil {
		return math.MaxInt64
	}
	return parseBytes(string(data))
}

// parseBytes reads a number of bytes, or "max".
func parseBytes(text string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return math.MaxInt64
	}
	return n
}
