package spec

import (
	"maps"
	"path"
	"regexp"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// addResources limits the container and gives it its cgroup and its devices.
func addResources(s *specs.Spec, in Input) error {
	r, err := Resources(in.Container.GetLinux().GetResources(), in.Host)
	if err != nil {
		return err
	}
	s.Linux.Resources = r
	s.Linux.CgroupsPath, err = CgroupsPath(in.Pod.GetLinux().GetCgroupParent(), in.ID, in.SystemdCgroup)
	if err != nil {
		return err
	}
	addDevices(s, in)
	return nil
}

// Resources turns kubelet's limits into OCI's, for a new container (which gets its
// device rules from elsewhere) and for an update. 0 and "" are "not specified" and
// leave a value as it is. r may be nil. The oom score is the process's, not here.
//
// Units are CRI's: bytes, microseconds. memory_limit without a swap limit allows no
// swap, on cgroup v1 and v2, where the kernel can account for swap.
func Resources(r *runtimeapi.LinuxContainerResources, host Host) (*specs.LinuxResources, error) {
	out := &specs.LinuxResources{}
	for _, part := range []func(*specs.LinuxResources, *runtimeapi.LinuxContainerResources, Host) error{
		addCPU, addMemory, addHugepages, addUnified,
	} {
		if err := part(out, r, host); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// The kernel's bounds of CPU quotas and periods, in microseconds. systemd would quietly
// make something else of what is out of them.
const (
	minCPUTime   = 1000
	maxCPUPeriod = 1_000_000
)

var cpuList = regexp.MustCompile(`^[0-9,-]*$`)

func addCPU(out *specs.LinuxResources, r *runtimeapi.LinuxContainerResources, _ Host) error {
	shares, period, quota := r.GetCpuShares(), r.GetCpuPeriod(), r.GetCpuQuota()
	switch {
	case shares < 0:
		return invalid("cpu_shares: %d is negative", shares)
	case period < 0:
		return invalid("cpu_period: %d is negative", period)
	case period != 0 && (period < minCPUTime || period > maxCPUPeriod):
		return invalid("cpu_period: %d is not between %d and %d", period, minCPUTime, maxCPUPeriod)
	case quota < -1:
		return invalid("cpu_quota: %d is neither -1 nor positive", quota)
	case quota > 0 && quota < minCPUTime:
		return invalid("cpu_quota: %d is less than %d, the least there is", quota, minCPUTime)
	case !cpuList.MatchString(r.GetCpusetCpus()):
		return invalid("cpuset_cpus: %q is no list of CPUs", r.GetCpusetCpus())
	case !cpuList.MatchString(r.GetCpusetMems()):
		return invalid("cpuset_mems: %q is no list of memory nodes", r.GetCpusetMems())
	}
	cpu := &specs.LinuxCPU{Cpus: r.GetCpusetCpus(), Mems: r.GetCpusetMems()}
	if shares > 0 {
		cpu.Shares = new(uint64(shares)) // libcontainer makes it a weight on cgroup v2
	}
	if period > 0 {
		cpu.Period = new(uint64(period))
	}
	if quota != 0 {
		cpu.Quota = new(quota)
	}
	if *cpu != (specs.LinuxCPU{}) {
		out.CPU = cpu
	}
	return nil
}

func addMemory(out *specs.LinuxResources, r *runtimeapi.LinuxContainerResources, host Host) error {
	limit, swap := r.GetMemoryLimitInBytes(), r.GetMemorySwapLimitInBytes()
	switch {
	case limit < -1:
		return invalid("memory_limit_in_bytes: %d is neither -1 nor positive", limit)
	case swap < -1:
		return invalid("memory_swap_limit_in_bytes: %d is neither -1 nor positive", swap)
	case swap > 0 && limit > swap: // the swap limit counts memory and swap together
		return invalid("memory_swap_limit_in_bytes: %d is less than the memory limit %d", swap, limit)
	case swap > 0 && limit <= 0:
		return invalid("memory_swap_limit_in_bytes: %d has no memory limit to go with; set memory_limit_in_bytes too", swap)
	case limit == 0 && swap == 0:
		return nil
	}
	out.Memory = &specs.LinuxMemory{}
	if limit != 0 {
		out.Memory.Limit = new(limit)
	}
	if swap == 0 {
		swap = limit
	}
	if host.Swap {
		out.Memory.Swap = new(swap)
	}
	return nil
}

var pageSize = regexp.MustCompile(`^[1-9][0-9]*(KB|MB|GB)$`)

func addHugepages(out *specs.LinuxResources, r *runtimeapi.LinuxContainerResources, host Host) error {
	for _, l := range r.GetHugepageLimits() {
		if !pageSize.MatchString(l.GetPageSize()) {
			return invalid("hugepage_limits: %q is no page size", l.GetPageSize())
		}
		if host.HugeTLB {
			out.HugepageLimits = append(out.HugepageLimits,
				specs.LinuxHugepageLimit{Pagesize: l.GetPageSize(), Limit: l.GetLimit()})
		}
	}
	return nil
}

// unifiedKey is a file of a cgroup and no path: "memory.high", "hugetlb.2MB.max".
var unifiedKey = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[A-Za-z0-9_]+)+$`)

func addUnified(out *specs.LinuxResources, r *runtimeapi.LinuxContainerResources, host Host) error {
	unified := r.GetUnified()
	if len(unified) == 0 {
		return nil
	}
	if !host.CgroupV2 {
		return invalid("unified: the host has cgroup v1")
	}
	for key := range unified {
		if !unifiedKey.MatchString(key) {
			return invalid("unified: %q is no file of a cgroup", key)
		}
	}
	out.Unified = maps.Clone(unified)
	return nil
}

// oomScoreAdj checks kubelet's value and raises it to what the host lets us set.
func oomScoreAdj(v int64, host Host) (int, error) {
	if v < -1000 || v > 1000 {
		return 0, invalid("oom_score_adj: %d is not between -1000 and 1000", v)
	}
	return max(int(v), host.OOMScoreAdjMin), nil
}

// CgroupsPath gives the OCI cgroupsPath of a container, or of a pod's holder. kubelet
// made the pod's cgroup, parent, and removes it; parent is a path in the cgroup tree
// (CRI), and with systemd its last element is the slice.
//
//	driver    parent                 cgroupsPath                 cgroup
//	cgroupfs  /kubepods/podX         /kubepods/podX/<id>         the same
//	cgroupfs  (none)                 /berth-<id>                 the same
//	systemd   /kubepods.slice/p.slice p.slice:berth:<id>         …/p.slice/berth-<id>.scope
//	systemd   (none)                 berth.slice:berth:<id>      /berth.slice/berth-<id>.scope
//
// Without a parent the container's own cgroup is all there is, so that nothing stays
// behind when it is deleted. A parent in the form of the other driver means that
// kubelet and berth disagree, and is ErrInvalid: the limits of the pod would not hold.
func CgroupsPath(parent, id string, systemd bool) (string, error) {
	if !idPattern.MatchString(id) {
		return "", invalid("container ID %q", id)
	}
	if parent == "" {
		if systemd {
			return "berth.slice:berth:" + id, nil
		}
		return "/berth-" + id, nil
	}
	if strings.ContainsAny(parent, "\x00\n") || pathClimbs(parent) {
		return "", invalid("cgroup parent %q: not a path", parent)
	}
	clean := path.Clean("/" + parent)
	slice := strings.HasSuffix(clean, ".slice")
	switch {
	case systemd && !slice:
		return "", invalid("cgroup parent %q: no slice, and the cgroup driver is systemd", parent)
	case !systemd && slice:
		return "", invalid("cgroup parent %q: a slice, and the cgroup driver is cgroupfs", parent)
	case !systemd:
		return path.Join(clean, id), nil
	}
	name := path.Base(clean)
	if strings.Contains(name, ":") {
		return "", invalid("cgroup parent %q: no slice's name", parent)
	}
	return name + ":berth:" + id, nil
}

func pathClimbs(p string) bool {
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}
