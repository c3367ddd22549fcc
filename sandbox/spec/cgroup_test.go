package spec

import "testing"

func TestCgroupDir(t *testing.T) {
	for _, c := range []struct {
		parent  string
		systemd bool
		want    string
	}{
		{"/kubepods/burstable/podX", false, "/kubepods/burstable/podX/c1"},
		{"", false, "/berth-c1"},
		{"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podX.slice", true,
			"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podX.slice/berth-c1.scope"},
		{"kubepods-burstable-podX.slice", true,
			"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podX.slice/berth-c1.scope"},
		{"", true, "/berth.slice/berth-c1.scope"},
		{"/-.slice", true, "/berth-c1.scope"},
	} {
		p, err := CgroupsPath(c.parent, "c1", c.systemd)
		if err != nil {
			t.Fatal(err)
		}
		if got := CgroupDir(p); got != c.want {
			t.Errorf("parent %q, systemd %v: %q, want %q", c.parent, c.systemd, got, c.want)
		}
	}
	for parent, want := range map[string]string{"": "", "/": "", "/-.slice": "", "kubepods/podX/": "/kubepods/podX",
		"/a.slice/a-b.slice": "/a.slice/a-b.slice", "a-b.slice": "/a.slice/a-b.slice"} {
		if got := PodCgroupDir(parent); got != want {
			t.Errorf("pod %q: %q, want %q", parent, got, want)
		}
	}
}
