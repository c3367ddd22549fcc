package spec

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// MergeResources lays the limits of an update over those a container was asked to
// have. 0, "" and nil are "not specified" (CRI) and leave a value as it is; so do
// page sizes and unified files that next does not name. Either may be nil, and
// neither is changed.
func MergeResources(old, next *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	out := &runtimeapi.LinuxContainerResources{}
	if old != nil {
		out = proto.CloneOf(old)
	}
	for to, from := range map[*int64]int64{
		&out.CpuPeriod: next.GetCpuPeriod(), &out.CpuQuota: next.GetCpuQuota(), &out.CpuShares: next.GetCpuShares(),
		&out.MemoryLimitInBytes: next.GetMemoryLimitInBytes(), &out.MemorySwapLimitInBytes: next.GetMemorySwapLimitInBytes(),
		&out.OomScoreAdj: next.GetOomScoreAdj(),
	} {
		if from != 0 {
			*to = from
		}
	}
	if next.GetCpusetCpus() != "" {
		out.CpusetCpus = next.GetCpusetCpus()
	}
	if next.GetCpusetMems() != "" {
		out.CpusetMems = next.GetCpusetMems()
	}
	for _, l := range next.GetHugepageLimits() {
		out.HugepageLimits = slices.DeleteFunc(out.HugepageLimits, func(o *runtimeapi.HugepageLimit) bool { return o.GetPageSize() == l.GetPageSize() })
		out.HugepageLimits = append(out.HugepageLimits, proto.CloneOf(l))
	}
	if len(next.GetUnified()) > 0 {
		if out.Unified == nil {
			out.Unified = map[string]string{}
		}
		maps.Copy(out.Unified, next.GetUnified())
	}
	return out
}

// GivenResources is what this host makes of limits that Resources takes, and what a
// container's status reports: a score that we may not set is raised, what the kernel
// does not count is not limited, and a memory limit alone allows no swap. r may be
// nil and is not changed; the result is never nil.
func GivenResources(r *runtimeapi.LinuxContainerResources, host Host) *runtimeapi.LinuxContainerResources {
	out := MergeResources(r, nil)
	out.OomScoreAdj = max(out.OomScoreAdj, int64(host.OOMScoreAdjMin))
	switch {
	case !host.Swap:
		out.MemorySwapLimitInBytes = 0
	case out.MemorySwapLimitInBytes == 0:
		out.MemorySwapLimitInBytes = out.MemoryLimitInBytes
	}
	if !host.HugeTLB {
		out.HugepageLimits = nil
	}
	return out
}

// OOMScoreAdj is the score that an update gives a container's processes, nil when it
// does not say.
func OOMScoreAdj(r *runtimeapi.LinuxContainerResources, host Host) (*int, error) {
	if r.GetOomScoreAdj() == 0 {
		return nil, nil
	}
	score, err := oomScoreAdj(r.GetOomScoreAdj(), host)
	return &score, err
}
