package main

import (
	"strings"
	"testing"
	"time"
)

// TestSoak is make soak for a few minutes, with a round of each kind: berthd and the shims
// left alone, the shims killed, berthd killed.
func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("long, and needs root")
	}
	s, err := options([]string{"-duration", "2m"})
	if err != nil {
		t.Fatal(err)
	}
	if err := soak(t.Context(), s, func(line string) { t.Log(line) }); err != nil {
		t.Fatal(err)
	}
}

// TestTroubles: what overlaps a trouble, or its aftermath, may fail, and nothing else.
func TestTroubles(t *testing.T) {
	var all troubles
	before := time.Now()
	if err := all.during(func() error {
		if !all.overlap(time.Now(), time.Now()) {
			t.Error("a trouble under way is not seen")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if after := time.Now(); !all.overlap(before, after) || !all.overlap(after, after) || all.overlap(after.Add(2*grace), after.Add(3*grace)) {
		t.Errorf("%+v", all.spans)
	}
	if all.overlap(before.Add(-time.Second), before.Add(-time.Millisecond)) {
		t.Error("what was over before the trouble is excused by it")
	}
}

// TestGraph: curves stay within the axes, which begin at 0.
func TestGraph(t *testing.T) {
	text := graph{"memory <MiB>", []curve{{"a", []float64{0, 30, 50}}, {"b", []float64{7}}}}.svg()
	for _, want := range []string{"memory &lt;MiB&gt;", `points="60.0,290.0 380.0,134.0 700.0,30.0"`, `points="60.0,253.6"`, ">50</text>", ">round 3</text>"} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %s:\n%s", want, text)
		}
	}
	for v, want := range map[float64]float64{1: 1, 1.5: 2, 21: 50, 99: 100, 700: 1000} {
		if got := roundUp(v); got != want {
			t.Errorf("%v is rounded up to %v, want %v", v, got, want)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, bad := range [][]string{{"-pods", "0"}, {"-shim-death", "mended"}, {"-workers", "0"}, {"more"}} {
		if _, err := options(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
