package bench_test

import (
	"testing"
	"time"

	"github.com/berthd/berth/test/bench"
)

func TestMedian(t *testing.T) {
	var samples []bench.Sample
	if d := bench.Median(samples, bench.Sample.Up); d != 0 {
		t.Errorf("of nothing: %v", d)
	}
	for _, ms := range []time.Duration{9, 1, 5} {
		samples = append(samples, bench.Sample{Pod: ms, Create: 1, Start: 1})
	}
	if d := bench.Median(samples, bench.Sample.Up); d != 7 {
		t.Errorf("of three: %v, want 7", d)
	}
	samples = append(samples, bench.Sample{Pod: 7, Create: 1, Start: 1})
	if d := bench.Median(samples, bench.Sample.Up); d != 8 {
		t.Errorf("of four: %v, want 8", d)
	}
}
