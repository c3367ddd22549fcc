package spec

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func pages(sizes ...string) []*runtimeapi.HugepageLimit {
	var all []*runtimeapi.HugepageLimit
	for i, s := range sizes {
		all = append(all, &runtimeapi.HugepageLimit{PageSize: s, Limit: uint64(i + 1)})
	}
	return all
}

func TestMergeResources(t *testing.T) {
	type res = runtimeapi.LinuxContainerResources
	full := func() *res {
		return &res{CpuPeriod: 1, CpuQuota: 2, CpuShares: 3, MemoryLimitInBytes: 4, MemorySwapLimitInBytes: 5, OomScoreAdj: 6,
			CpusetCpus: "0", CpusetMems: "1", HugepageLimits: pages("2MB", "1GB"), Unified: map[string]string{"a.b": "1", "c.d": "2"}}
	}
	for _, tt := range []struct {
		name            string
		old, next, want *res
	}{
		{"neither", nil, nil, &res{}},
		{"nothing new", full(), nil, full()},
		{"zeros are not specified", full(), &res{Unified: map[string]string{}, HugepageLimits: pages()}, full()},
		{"nothing before", nil, full(), full()},
		{"every number and text", full(), &res{CpuPeriod: 11, CpuQuota: -1, CpuShares: 13, MemoryLimitInBytes: -1, MemorySwapLimitInBytes: -1, OomScoreAdj: -16,
			CpusetCpus: "2", CpusetMems: "3"},
			&res{CpuPeriod: 11, CpuQuota: -1, CpuShares: 13, MemoryLimitInBytes: -1, MemorySwapLimitInBytes: -1, OomScoreAdj: -16,
				CpusetCpus: "2", CpusetMems: "3", HugepageLimits: pages("2MB", "1GB"), Unified: map[string]string{"a.b": "1", "c.d": "2"}}},
		{"one number", full(), &res{MemoryLimitInBytes: 9}, func() *res { r := full(); r.MemoryLimitInBytes = 9; return r }()},
		{"page sizes one by one", &res{HugepageLimits: pages("2MB", "1GB")}, &res{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB"}, {PageSize: "64KB", Limit: 7}}},
			&res{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "1GB", Limit: 2}, {PageSize: "2MB"}, {PageSize: "64KB", Limit: 7}}}},
		{"unified files one by one", &res{Unified: map[string]string{"a.b": "1", "c.d": "2"}}, &res{Unified: map[string]string{"c.d": "3", "e.f": "4"}},
			&res{Unified: map[string]string{"a.b": "1", "c.d": "3", "e.f": "4"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			old, next := proto.CloneOf(tt.old), proto.CloneOf(tt.next)
			got := MergeResources(tt.old, tt.next)
			if !proto.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			// The result is nobody else's.
			for _, l := range got.HugepageLimits {
				l.Limit = 99
			}
			if got.Unified != nil {
				got.Unified["a.b"] = "99"
			}
			if !proto.Equal(tt.old, old) || !proto.Equal(tt.next, next) {
				t.Errorf("changed: %v, %v", tt.old, tt.next)
			}
		})
	}
}

func TestGivenResources(t *testing.T) {
	type res = runtimeapi.LinuxContainerResources
	all := Host{Swap: true, HugeTLB: true, OOMScoreAdjMin: -1000}
	for _, tt := range []struct {
		name string
		r    *res
		host Host
		want *res
	}{
		{"nothing", nil, all, &res{}},
		{"a memory limit alone allows no swap", &res{MemoryLimitInBytes: 10}, all, &res{MemoryLimitInBytes: 10, MemorySwapLimitInBytes: 10}},
		{"swap as it was asked for", &res{MemoryLimitInBytes: 10, MemorySwapLimitInBytes: -1}, all, &res{MemoryLimitInBytes: 10, MemorySwapLimitInBytes: -1}},
		{"no memory limit", &res{MemoryLimitInBytes: -1}, all, &res{MemoryLimitInBytes: -1, MemorySwapLimitInBytes: -1}},
		{"swap that is not counted", &res{MemoryLimitInBytes: 10, MemorySwapLimitInBytes: 20}, Host{}, &res{MemoryLimitInBytes: 10}},
		{"huge pages", &res{HugepageLimits: pages("2MB")}, all, &res{HugepageLimits: pages("2MB")}},
		{"huge pages that are not counted", &res{HugepageLimits: pages("2MB")}, Host{}, &res{}},
		{"a score we may set", &res{OomScoreAdj: -999}, all, &res{OomScoreAdj: -999}},
		{"a score we may not set", &res{OomScoreAdj: -999}, Host{OOMScoreAdjMin: -5}, &res{OomScoreAdj: -5}},
		{"a score that is ours", nil, Host{OOMScoreAdjMin: 200}, &res{OomScoreAdj: 200}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := proto.CloneOf(tt.r)
			if got := GivenResources(tt.r, tt.host); !proto.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if !proto.Equal(tt.r, before) {
				t.Errorf("changed: %v", tt.r)
			}
		})
	}
}

// TestSwapNeedsMemory: the swap limit counts memory and swap together, so one that is
// a number needs a memory limit below it, wherever swap is counted.
func TestSwapNeedsMemory(t *testing.T) {
	for _, tt := range []struct {
		limit, swap int64
		want        string
	}{
		{0, 0, ""}, {10, 0, ""}, {10, 10, ""}, {10, 20, ""}, {10, -1, ""}, {-1, -1, ""}, {-1, 0, ""}, {0, -1, ""},
		{0, 10, "no memory limit"}, {-1, 10, "no memory limit"}, {20, 10, "less than"}, {10, -2, "neither"}, {-2, 0, "neither"},
	} {
		for _, host := range []Host{{}, {Swap: true}} {
			_, err := Resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: tt.limit, MemorySwapLimitInBytes: tt.swap}, host)
			if (err == nil) != (tt.want == "") || err != nil && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("memory %d, swap %d, %+v: %v, want %q", tt.limit, tt.swap, host, err, tt.want)
			}
		}
	}
}

func TestOOMScoreAdj(t *testing.T) {
	host := Host{OOMScoreAdjMin: -5}
	for asked, want := range map[int64]int{1000: 1000, 1: 1, -5: -5, -6: -5, -1000: -5} {
		got, err := OOMScoreAdj(&runtimeapi.LinuxContainerResources{OomScoreAdj: asked}, host)
		if err != nil || got == nil || *got != want {
			t.Errorf("%d: %v, %v, want %d", asked, got, err, want)
		}
	}
	for _, asked := range []int64{1001, -1001} {
		if _, err := OOMScoreAdj(&runtimeapi.LinuxContainerResources{OomScoreAdj: asked}, host); !errors.Is(err, ErrInvalid) {
			t.Errorf("%d: %v", asked, err)
		}
	}
	if got, err := OOMScoreAdj(nil, host); got != nil || err != nil {
		t.Errorf("none: %v, %v", got, err)
	}
}
