package critest

import (
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	specs := []spec{
		{name: "good", state: "passed"},
		{name: "bad", state: "failed"},
		{name: "known", state: "failed"},
		{name: "mended", state: "passed"},
		{name: "left out", state: "skipped"},
		{name: "slow", state: "timedout"},
	}
	v := judge(specs, map[string]bool{"known": true, "mended": true, "unheard": true}, false)
	if v.passed != 2 || v.failed != 3 || v.skipped != 1 {
		t.Errorf("counts: %+v", v)
	}
	got := strings.Join(v.wrong, "\n")
	for _, want := range []string{"failed: bad", "timedout: slow", "expected failures: mended", "expected failures: unheard"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if len(v.wrong) != 4 {
		t.Errorf("%d complaints, want 4:\n%s", len(v.wrong), got)
	}
}
