package plot_test

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/berthd/berth/test/bench/plot"
)

func TestSVG(t *testing.T) {
	tests := []struct {
		name   string
		plot   plot.Plot
		within []string // what is in it
	}{
		{"nothing at all", plot.Plot{}, nil},
		{"from zero", plot.Plot{Title: "a < b", X: []float64{10, 20}, Curves: []plot.Curve{{Name: "c", Y: []float64{25, 50}}}},
			[]string{"a &lt; b", `points="70.0,162.0 640.0,30.0"`, ">50</text>", ">0</text>"}},
		{"by the logarithm", plot.Plot{Log: true, X: []float64{0, 1, 2}, Curves: []plot.Curve{{Y: []float64{1, 10, 100}}}},
			[]string{`points="70.0,294.0 355.0,162.0 640.0,30.0"`, ">10</text>"}},
		{"a value is missing", plot.Plot{X: []float64{1, 2, 3}, Curves: []plot.Curve{{Y: []float64{10, 0, 10}}}},
			[]string{`points="70.0,30.0 640.0,30.0"`}},
		{"a pair", plot.Plot{X: []float64{1}, Curves: []plot.Curve{{Y: []float64{1}}, {Y: []float64{1}, Dashed: true}}},
			[]string{`stroke="#1f6feb" stroke-width="1.5"/>`, `stroke="#1f6feb" stroke-width="1.5" stroke-dasharray="5 4"/>`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			svg := tt.plot.SVG()
			for d := xml.NewDecoder(strings.NewReader(svg)); ; {
				_, err := d.Token()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatalf("%v in:\n%s", err, svg)
				}
			}
			for _, part := range tt.within {
				if !strings.Contains(svg, part) {
					t.Errorf("%s is not in:\n%s", part, svg)
				}
			}
			if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
				t.Errorf("no number:\n%s", svg)
			}
		})
	}
}
