package spec

import (
	"encoding/json"
	"errors"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestResources(t *testing.T) {
	all, none := Host{CgroupV2: true, Swap: true, HugeTLB: true}, Host{}
	type res = runtimeapi.LinuxContainerResources
	for _, tt := range []struct {
		name string
		r    *res
		host Host
		want string
	}{
		{"nothing", nil, all, `{}`},
		{"zeros are not specified", &res{}, all, `{}`},
		{"cpu", &res{CpuShares: 2, CpuPeriod: 100000, CpuQuota: -1}, none, `{"cpu":{"shares":2,"quota":-1,"period":100000}}`},
		{"cpuset", &res{CpusetCpus: "0-3,5", CpusetMems: "0"}, none, `{"cpu":{"cpus":"0-3,5","mems":"0"}}`},
		{"no swap", &res{MemoryLimitInBytes: 100}, all, `{"memory":{"limit":100,"swap":100}}`},
		{"no swap accounting", &res{MemoryLimitInBytes: 100, MemorySwapLimitInBytes: 200}, none, `{"memory":{"limit":100}}`},
		{"some swap", &res{MemoryLimitInBytes: 100, MemorySwapLimitInBytes: 150}, all, `{"memory":{"limit":100,"swap":150}}`},
		{"all swap", &res{MemoryLimitInBytes: 100, MemorySwapLimitInBytes: -1}, all, `{"memory":{"limit":100,"swap":-1}}`},
		{"no limit any more", &res{MemoryLimitInBytes: -1}, all, `{"memory":{"limit":-1,"swap":-1}}`},
		{"hugepages", &res{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB"}}}, all, `{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}`},
		{"hugepages without a controller", &res{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 1}}}, none, `{}`},
		{"unified", &res{Unified: map[string]string{"hugetlb.2MB.max": "0", "memory.swap.max": "0"}}, all,
			`{"unified":{"hugetlb.2MB.max":"0","memory.swap.max":"0"}}`},
		{"the oom score is elsewhere", &res{OomScoreAdj: 5}, all, `{}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := Resources(tt.r, tt.host)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestCgroupsPath(t *testing.T) {
	for _, tt := range []struct {
		parent  string
		systemd bool
		want    string
	}{
		{"", false, "/berth-c1"},
		{"", true, "berth.slice:berth:c1"},
		{"/kubepods/burstable/podx", false, "/kubepods/burstable/podx/c1"},
		{"kubepods//podx/", false, "/kubepods/podx/c1"},
		{"/", false, "/c1"},
		{"/kubepods.slice/kubepods-podx.slice", true, "kubepods-podx.slice:berth:c1"},
		{"test.slice", true, "test.slice:berth:c1"},
		{"/test.slice", true, "test.slice:berth:c1"},
		{"/kubepods/podx", true, ""},
		{"/", true, ""},
		{"/a.slice/b", true, ""},
		{"/kubepods.slice/kubepods-podx.slice", false, ""},
		{"/a:b.slice", true, ""},
		{"/../etc", false, ""},
		{"/a/..", false, ""},
		{"/a\nb", false, ""},
	} {
		got, err := CgroupsPath(tt.parent, "c1", tt.systemd)
		if got != tt.want || (tt.want == "") != errors.Is(err, ErrInvalid) {
			t.Errorf("CgroupsPath(%q, systemd %t) = %q, %v, want %q", tt.parent, tt.systemd, got, err, tt.want)
		}
	}
	for _, id := range []string{"", ".", "..", "a/b", "a:b", "-a", "a\n"} {
		if got, err := CgroupsPath("/x", id, false); err == nil {
			t.Errorf("ID %q: %s", id, got)
		}
	}
}

func TestPIDNamespace(t *testing.T) {
	pod := security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.NamespaceOptions = nil })
	joined := func(path string) change { return func(in *Input) { in.Namespaces.PID = path } }
	mode := func(m runtimeapi.NamespaceMode) change {
		return security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.NamespaceOptions.Pid = m })
	}
	for _, tt := range []struct {
		name string
		do   []change
		path string
		ok   bool
	}{
		{"its own", nil, "", true},
		{"its own, whatever the path", []change{joined("/p")}, "", true},
		{"the pod's", []change{mode(runtimeapi.NamespaceMode_POD), joined("/p")}, "/p", true},
		{"a target's", []change{mode(runtimeapi.NamespaceMode_TARGET), joined("/p")}, "/p", true},
		{"the host's", []change{mode(runtimeapi.NamespaceMode_NODE), joined("/p")}, "", false},
		{"as the pod says", []change{pod, joined("/p")}, "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			found := false
			for _, n := range mustContainer(t, tt.do...).Linux.Namespaces {
				if n.Type == "pid" {
					found = true
					if n.Path != tt.path {
						t.Errorf("path %q, want %q", n.Path, tt.path)
					}
				}
			}
			if found != tt.ok {
				t.Errorf("a PID namespace: %t, want %t", found, tt.ok)
			}
		})
	}
}
