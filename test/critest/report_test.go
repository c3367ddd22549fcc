package critest

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestJudge(t *testing.T) {
	specs := []spec{
		{name: "good", state: "passed"},
		{name: "bad", state: "failed"},
		{name: "known", state: "failed"},
		{name: "left out", state: "skipped"},
		{name: "slow", state: "timedout"},
	}
	v := judge(specs, map[string]bool{"known": true, "unheard": true}, false)
	if v.passed != 1 || v.failed != 3 || v.skipped != 1 || !slices.Equal(v.unknown, []string{"unheard"}) {
		t.Errorf("%+v", v)
	}
	if v := judge(specs, map[string]bool{"unheard": true}, true); len(v.unknown) != 0 {
		t.Errorf("a partial run knows not all names: %v", v.unknown)
	}
}

func TestReadReport(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	text := `[{"SpecReports":[
		{"LeafNodeType":"BeforeSuite","State":"passed"},
		{"LeafNodeType":"It","ContainerHierarchyTexts":["[k8s.io] Pod","runs"],"LeafNodeText":"at all","State":"failed","Failure":{"Message":"no"},"RunTime":5000000000}]}]`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	specs, fail, err := readReport(path)
	if err != nil || fail != "" || len(specs) != 1 {
		t.Fatalf("%v, %q, %v", specs, fail, err)
	}
	if s := specs[0]; s.name != "[k8s.io] Pod runs at all" || s.state != "failed" || s.message != "no" || s.took.Seconds() != 5 {
		t.Errorf("%+v", s)
	}
}
