package spec

import (
	"fmt"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Clamped says what of in was asked for and will not be given, because this host
// cannot: one sentence each, for one warning in the log. A request that Container
// refuses has none worth reading.
func Clamped(in Input) []string {
	sc := in.Container.GetLinux().GetSecurityContext()
	r := in.Container.GetLinux().GetResources()
	var out []string
	wanted, _ := wantedCapabilities(sc)
	missing := slices.DeleteFunc(slices.Clone(wanted), func(n string) bool { return slices.Contains(in.Host.Capabilities, n) })
	if len(missing) > 0 {
		slices.Sort(missing)
		out = append(out, "capabilities: not ours to give: "+strings.Join(slices.Compact(missing), ", "))
	}
	out = append(out, ClampedResources(r, in.Host)...)
	if in.Host.AppArmor && in.Host.appArmorDefault() == "" && GetsAppArmorDefault(sc) {
		out = append(out, "apparmor: not confined: "+AppArmorProfile+" is not loaded; berth status says why") // the same words each time
	}
	return out
}

// ClampedResources is the part of Clamped that an update can change.
func ClampedResources(r *runtimeapi.LinuxContainerResources, host Host) []string {
	var out []string
	if adj := r.GetOomScoreAdj(); adj < int64(host.OOMScoreAdjMin) {
		out = append(out, fmt.Sprintf("oom_score_adj: %d becomes %d: no CAP_SYS_RESOURCE", adj, host.OOMScoreAdjMin))
	}
	if r.GetMemorySwapLimitInBytes() > 0 && !host.Swap {
		out = append(out, "memory_swap_limit: the kernel does not account for swap")
	}
	if hugepagesLimited(r) && !host.HugeTLB {
		out = append(out, "hugepage_limits: the kernel has no hugetlb controller")
	}
	return out
}

// hugepagesLimited tells whether a limit promises pages. kubelet sends a limit of 0
// for every size the node has.
func hugepagesLimited(r *runtimeapi.LinuxContainerResources) bool {
	return slices.ContainsFunc(r.GetHugepageLimits(), func(l *runtimeapi.HugepageLimit) bool { return l.GetLimit() > 0 })
}
