package bench_test

import (
	"slices"
	"testing"
	"time"

	"github.com/berthd/berth/test/bench"
)

func TestTable(t *testing.T) {
	table := bench.Table{
		Title: "Pulls", Head: []string{"", "wall", "ratio"},
		Rows:  [][]string{{"a", "1.00 s", ""}, {"long name", "12.00 s", "≤ 0.45"}},
		Notes: []string{"A note."},
	}
	if got, want := table.Text(), "Pulls\n              wall   ratio\na           1.00 s\nlong name  12.00 s  ≤ 0.45\nA note.\n"; got != want {
		t.Errorf("text:\n%s\nwant:\n%s", got, want)
	}
	want := "**Pulls**\n\n|  | wall | ratio |\n|---|---:|---:|\n| a | 1.00 s |  |\n| long name | 12.00 s | ≤ 0.45 |\n\nA note.\n"
	if got := table.Markdown(); got != want {
		t.Errorf("markdown:\n%s\nwant:\n%s", got, want)
	}
}

func TestQuantile(t *testing.T) {
	hundred := make([]time.Duration, 0, 101)
	for i := range 101 {
		hundred = append(hundred, time.Duration(100-i)*time.Second)
	}
	for _, tt := range []struct {
		of   []time.Duration
		q    float64
		want time.Duration
	}{
		{nil, 0.5, 0}, {hundred, 0, 0}, {hundred, 0.5, 50 * time.Second}, {hundred, 0.99, 99 * time.Second}, {hundred, 1, 100 * time.Second},
		{[]time.Duration{8, 2}, 0.5, 5}, {[]time.Duration{7}, 0.99, 7},
	} {
		if got := bench.Quantile(tt.of, tt.q); got != tt.want {
			t.Errorf("%v of %d values: %v, want %v", tt.q, len(tt.of), got, tt.want)
		}
	}
}

// TestRatios leaves out a round in which one has nothing.
func TestRatios(t *testing.T) {
	if got := bench.Ratios([]float64{1, 0, 3, 4}, []float64{2, 2, 0, 4, 5}); !slices.Equal(got, []float64{0.5, 1}) {
		t.Errorf("%v, want 0.5 and 1", got)
	}
}
