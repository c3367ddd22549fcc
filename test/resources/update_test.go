package resources

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// first are the limits of each container before it is updated.
func first() *limits {
	return &limits{CpuShares: 512, CpuPeriod: 100000, CpuQuota: 50000,
		MemoryLimitInBytes: 20 * mib, MemorySwapLimitInBytes: 40 * mib, OomScoreAdj: 300}
}

func cpuMax(quota, period string) []file {
	v1 := quota
	if quota == "max" {
		v1 = "-1"
	}
	return []file{{"cpu/cpu.cfs_quota_us", v1, "cpu.max", quota + " " + period}, {"cpu/cpu.cfs_period_us", period, "", ""}}
}

func memoryMax(most, v1Swap, v2Swap string) []file {
	return []file{
		{"memory/memory.limit_in_bytes", most, "memory.max", most},
		{"memory/memory.memsw.limit_in_bytes", v1Swap, "memory.swap.max", v2Swap},
	}
}

const (
	tenMiB, twentyMiB, thirtyMiB = "10485760", "20971520", "31457280"
	fortyMiB, hundredMiB         = "41943040", "104857600"
	v1NoLimit                    = "9223372036854771712"
)

// perDriver is a value that a file has with each cgroup driver, where they differ.
func perDriver(cgroupfs, systemd string) string {
	if node.SystemdCgroup() {
		return systemd
	}
	return cgroupfs
}

// onV1 are updates that cgroup v1 does not have, and how they are refused.
var onV1 = map[string]codes.Code{"a file of cgroup v2": codes.InvalidArgument}

// updates are requests, what the kernel has after each, and how the status differs
// from the first limits, on both versions of cgroups and with both drivers. An update of
// hugepages has no file where nothing counts them.
var updates = []struct {
	name   string
	r      *limits
	files  []file
	status func(*limits)
}{
	{"nothing", nil, append(cpuMax("50000", "100000"), memoryMax(twentyMiB, fortyMiB, twentyMiB)...), func(*limits) {}},
	{"cpu shares", &limits{CpuShares: 1024}, []file{{"cpu/cpu.shares", "1024", "cpu.weight", "100"}}, func(r *limits) { r.CpuShares = 1024 }},
	{"cpu quota", &limits{CpuQuota: 20000}, cpuMax("20000", "100000"), func(r *limits) { r.CpuQuota = 20000 }},
	{"cpu period", &limits{CpuPeriod: 200000}, cpuMax("50000", "200000"), func(r *limits) { r.CpuPeriod = 200000 }},
	// systemd keeps quotas in whole percents; kubelet is told the one that it asked for.
	{"a quota of no whole percents", &limits{CpuPeriod: 50000, CpuQuota: 12345}, cpuMax(perDriver("12345", "12500"), "50000"),
		func(r *limits) { r.CpuPeriod, r.CpuQuota = 50000, 12345 }},
	{"no cpu limit", &limits{CpuQuota: -1}, cpuMax("max", "100000"), func(r *limits) { r.CpuQuota = -1 }},
	{"cpuset", &limits{CpusetCpus: "0", CpusetMems: "0"},
		[]file{{"cpuset/cpuset.cpus", "0", "cpuset.cpus", "0"}, {"cpuset/cpuset.mems", "0", "cpuset.mems", "0"}},
		func(r *limits) { r.CpusetCpus, r.CpusetMems = "0", "0" }},
	{"memory up", &limits{MemoryLimitInBytes: 30 * mib}, memoryMax(thirtyMiB, fortyMiB, tenMiB), func(r *limits) { r.MemoryLimitInBytes = 30 * mib }},
	{"memory up, above swap", &limits{MemoryLimitInBytes: 100 * mib, MemorySwapLimitInBytes: 100 * mib}, memoryMax(hundredMiB, hundredMiB, "0"),
		func(r *limits) { r.MemoryLimitInBytes, r.MemorySwapLimitInBytes = 100*mib, 100*mib }},
	{"memory down", &limits{MemoryLimitInBytes: 10 * mib}, memoryMax(tenMiB, fortyMiB, thirtyMiB), func(r *limits) { r.MemoryLimitInBytes = 10 * mib }},
	{"memory down, swap below what memory was", &limits{MemoryLimitInBytes: 10 * mib, MemorySwapLimitInBytes: 10 * mib}, memoryMax(tenMiB, tenMiB, "0"),
		func(r *limits) { r.MemoryLimitInBytes, r.MemorySwapLimitInBytes = 10*mib, 10*mib }},
	{"swap alone", &limits{MemorySwapLimitInBytes: 30 * mib}, memoryMax(twentyMiB, thirtyMiB, tenMiB), func(r *limits) { r.MemorySwapLimitInBytes = 30 * mib }},
	{"all the swap there is", &limits{MemorySwapLimitInBytes: -1}, memoryMax(twentyMiB, v1NoLimit, "max"), func(r *limits) { r.MemorySwapLimitInBytes = -1 }},
	{"no memory limit", &limits{MemoryLimitInBytes: -1, MemorySwapLimitInBytes: -1},
		[]file{{"memory/memory.limit_in_bytes", v1NoLimit, "memory.max", "max"}, {"memory/memory.memsw.limit_in_bytes", v1NoLimit, "memory.swap.max", "max"}},
		func(r *limits) { r.MemoryLimitInBytes, r.MemorySwapLimitInBytes = -1, -1 }},
	{"a higher score", &limits{OomScoreAdj: 700}, nil, func(r *limits) { r.OomScoreAdj = 700 }},
	{"a lower score", &limits{OomScoreAdj: 100}, nil, func(r *limits) { r.OomScoreAdj = 100 }},
	{"a score as low as it goes", &limits{OomScoreAdj: -900}, nil, func(r *limits) { r.OomScoreAdj = -900 }},
	{"huge pages", &limits{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 2 * mib}}},
		[]file{{"hugetlb/hugetlb.2MB.limit_in_bytes", "2097152", "hugetlb.2MB.max", "2097152"}},
		func(r *limits) { r.HugepageLimits = []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 2 * mib}} }},
	{"a file of cgroup v2", &limits{Unified: map[string]string{"memory.high": fortyMiB}}, []file{{"", "", "memory.high", fortyMiB}},
		func(r *limits) { r.Unified = map[string]string{"memory.high": fortyMiB} }},
	{"all at once", &limits{CpuShares: 1024, CpuPeriod: 200000, CpuQuota: 100000, CpusetCpus: "0", MemoryLimitInBytes: 30 * mib,
		MemorySwapLimitInBytes: 30 * mib, OomScoreAdj: 700},
		append(append(cpuMax("100000", "200000"), memoryMax(thirtyMiB, thirtyMiB, "0")...), file{"cpu/cpu.shares", "1024", "cpu.weight", "100"},
			file{"cpuset/cpuset.cpus", "0", "cpuset.cpus", "0"}),
		func(r *limits) {
			r.CpuShares, r.CpuPeriod, r.CpuQuota, r.CpusetCpus, r.OomScoreAdj = 1024, 200000, 100000, "0", 700
			r.MemoryLimitInBytes, r.MemorySwapLimitInBytes = 30*mib, 30*mib
		}},
}

// given is what this machine makes of limits, which is what the status is to say.
func given(t *testing.T, edit func(*limits)) *limits {
	t.Helper()
	r := first()
	edit(r)
	r.OomScoreAdj = max(r.OomScoreAdj, lowestScore(t))
	if !node.SwapCounted() {
		r.MemorySwapLimitInBytes = 0
	}
	if !hugeTLB() {
		r.HugepageLimits = nil
	}
	return r
}

// An updated container is one with what its status and files are to say.
type updated struct {
	status *limits
	files  []file
}

// TestUpdate updates every field of created and of running containers: the kernel has
// it, the status says so, and the log once what cannot be had, also after a start and for the next daemon.
func TestUpdate(t *testing.T) {
	s := open(t)
	all := map[string]updated{}
	for i, tt := range updates {
		for _, state := range []string{"created", "running"} {
			t.Run(tt.name+", "+state, func(t *testing.T) {
				id := s.create(t, first(), "sleep", "100000")
				s.reports(t, "before", id, given(t, func(*limits) {}))
				if state == "running" {
					s.start(t, id)
				}
				if code := onV1[tt.name]; code != codes.OK && !node.OnV2() {
					if err := s.update(t, id, tt.r); status.Code(err) != code {
						t.Errorf("%v, want %v", err, code)
					}
					s.reports(t, "after", id, given(t, func(*limits) {}))
					return
				}
				all[id] = s.updateBy(t, id, i)
			})
		}
	}
	if node.SystemdCgroup() { // which writes what it knows of
		s.reload(t)
		for id, want := range all {
			s.checkFiles(t, "after systemd's reload", id, want.files)
		}
	}
	told := strings.Count(s.Node.Tail(1<<20), "the kernel has no hugetlb controller")
	if hugeTLB() && told != 0 || !hugeTLB() && told != 1 {
		t.Errorf("the log speaks %d times of huge pages that are not counted", told)
	}
	s.restart(t)
	for id, want := range all {
		s.reports(t, "after a restart", id, want.status)
	}
	// An update goes on from what the last one left.
	for id, want := range all {
		if err := s.update(t, id, &limits{CpuShares: 256}); err != nil {
			t.Error(err)
		}
		want.status.CpuShares = 256
		s.reports(t, "after an update by the next daemon", id, want.status)
	}
}

// updateBy makes the update i of a container, which is created or running and runs in
// the end.
func (s *suite) updateBy(t *testing.T, id string, i int) updated {
	t.Helper()
	tt := updates[i]
	if err := s.update(t, id, tt.r); err != nil {
		t.Fatal(err)
	}
	want := updated{status: given(t, tt.status)}
	if tt.r.GetHugepageLimits() == nil || hugeTLB() {
		want.files = tt.files
	}
	check := func(when string) {
		t.Helper()
		s.reports(t, when, id, want.status)
		s.checkFiles(t, when, id, want.files)
		if got := number(t, "/proc/"+s.status(t, id).GetInfo()["pid"]+"/oom_score_adj"); got != want.status.GetOomScoreAdj() {
			t.Errorf("%s: oom_score_adj %d, want %d", when, got, want.status.GetOomScoreAdj())
		}
	}
	check("after")
	if s.status(t, id).GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_CREATED {
		s.start(t, id)
		check("after the start")
	}
	s.scoresBeside(t, id, want.status.GetOomScoreAdj())
	return want
}

// TestUpdateRefused: what is refused changes nothing, in the kernel and in the status.
func TestUpdateRefused(t *testing.T) {
	s := open(t)
	id := s.run(t, first(), "sleep", "100000")
	s.exec(t, id, "dd if=/dev/zero of=/dev/shm/held bs=1M count=8")
	before, files := given(t, func(*limits) {}), s.allFiles(t, id)
	pid := s.status(t, id).GetInfo()["pid"]
	with := func(edit func(*limits)) *limits { // everything else may be had
		r := &limits{CpuShares: 1024, CpuPeriod: 200000, CpuQuota: 100000, CpusetCpus: "0", OomScoreAdj: 700}
		edit(r)
		return r
	}
	for _, tt := range []struct {
		name string
		r    *limits
		code codes.Code
	}{
		{"memory below what is in use", with(func(r *limits) { r.MemoryLimitInBytes, r.MemorySwapLimitInBytes = 4*mib, 4*mib }), codes.FailedPrecondition},
		{"swap below memory", with(func(r *limits) { r.MemorySwapLimitInBytes = 10 * mib }), codes.InvalidArgument},
		{"a CPU there is not", with(func(r *limits) { r.CpusetCpus = "4000" }), codes.InvalidArgument},
		{"no list of CPUs", with(func(r *limits) { r.CpusetCpus = "a" }), codes.InvalidArgument},
		{"too long a period", with(func(r *limits) { r.CpuPeriod = 2_000_000 }), codes.InvalidArgument},
		{"too small a quota", with(func(r *limits) { r.CpuQuota = 1 }), codes.InvalidArgument},
		{"negative shares", with(func(r *limits) { r.CpuShares = -1 }), codes.InvalidArgument},
		{"a score there is not", with(func(r *limits) { r.OomScoreAdj = 1001 }), codes.InvalidArgument},
		{"a page size there is not", with(func(r *limits) { r.HugepageLimits = []*runtimeapi.HugepageLimit{{PageSize: "big"}} }), codes.InvalidArgument},
		{"a path for a unified file", with(func(r *limits) { r.Unified = map[string]string{"../memory.max": "1"} }), codes.InvalidArgument},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := s.update(t, id, tt.r)
			if status.Code(err) != tt.code {
				t.Errorf("%v, want %v", err, tt.code)
			}
			t.Log(err)
			s.reports(t, "after", id, before)
			if after := s.allFiles(t, id); after != files {
				t.Errorf("the cgroup was\n%s\nand is\n%s", files, after)
			}
			if got := number(t, "/proc/"+pid+"/oom_score_adj"); got != before.GetOomScoreAdj() {
				t.Errorf("oom_score_adj %d", got)
			}
			s.scoresBeside(t, id, before.GetOomScoreAdj())
		})
	}
}

// TestUpdateStates: which containers have limits to change, and the annotations of an
// update, which are kept.
func TestUpdateStates(t *testing.T) {
	s := open(t)
	id := s.run(t, first(), "sleep", "100000")
	annotate := func(a map[string]string) {
		t.Helper()
		_, err := s.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Annotations: a})
		if err != nil {
			t.Fatal(err)
		}
	}
	annotate(map[string]string{"a": "1", "b": "1"})
	annotate(map[string]string{"b": "2"})
	annotations := func(when string) {
		t.Helper()
		var info struct {
			UpdateAnnotations map[string]string `json:"updateAnnotations"`
			Resources         struct {
				MemoryLimitInBytes string `json:"memoryLimitInBytes"`
			} `json:"resources"`
		}
		if err := json.Unmarshal([]byte(s.status(t, id).GetInfo()["info"]), &info); err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(info.UpdateAnnotations, map[string]string{"a": "1", "b": "2"}) || info.Resources.MemoryLimitInBytes != twentyMiB {
			t.Errorf("%s: %+v", when, info)
		}
		if a := s.status(t, id).GetStatus().GetAnnotations(); len(a) != 0 {
			t.Errorf("%s: the container's own annotations: %v", when, a)
		}
	}
	annotations("before a restart")
	s.restart(t)
	annotations("after a restart")

	if _, err := s.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	for of, want := range map[string]codes.Code{id: codes.FailedPrecondition, "0123": codes.NotFound, "": codes.InvalidArgument} {
		if err := s.update(t, of, &limits{CpuShares: 5}); status.Code(err) != want {
			t.Errorf("ID %q: %v, want %v", of, err, want)
		}
	}
	s.reports(t, "exited", id, given(t, func(*limits) {}))
}

// TestUpdatePod: what a pod is to have is kept and shown, as often as it is said.
func TestUpdatePod(t *testing.T) {
	s := open(t)
	req := &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: s.podID,
		Overhead: &limits{CpuShares: 5}, Resources: &limits{CpuShares: 7, MemoryLimitInBytes: 64 * mib}}
	update := func(req *runtimeapi.UpdatePodSandboxResourcesRequest) {
		t.Helper()
		if _, err := s.UpdatePodSandboxResources(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	shown := func(when string) {
		t.Helper()
		resp, err := s.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: s.podID, Verbose: true})
		if err != nil {
			t.Fatal(err)
		}
		var info struct {
			Overhead, Resources struct{ CpuShares, MemoryLimitInBytes string }
		}
		if err := json.Unmarshal([]byte(resp.GetInfo()["info"]), &info); err != nil {
			t.Fatal(err)
		}
		if info.Overhead.CpuShares != "5" || info.Resources.CpuShares != "7" || info.Resources.MemoryLimitInBytes != "67108864" {
			t.Errorf("%s: %s", when, resp.GetInfo()["info"])
		}
	}
	update(req)
	shown("once")
	update(proto.CloneOf(req))
	shown("twice")
	update(&runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: s.podID})
	shown("after an update of nothing")
	s.restart(t)
	shown("after a restart")
	update(req)
	if _, err := s.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: s.podID}); err != nil {
		t.Fatal(err)
	}
	update(req) // it never fails for want of work
	for id, want := range map[string]codes.Code{"0123": codes.NotFound, "": codes.InvalidArgument} {
		_, err := s.UpdatePodSandboxResources(t.Context(), &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: id})
		if status.Code(err) != want {
			t.Errorf("ID %q: %v, want %v", id, err, want)
		}
	}
}
