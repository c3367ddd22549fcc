package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/berthd/berth/test/bench"
	"github.com/berthd/berth/test/bench/plot"
)

// A picture is a graph with the name of its file.
type picture struct {
	file string
	plot plot.Plot
}

// report prints all tables, and puts them into the document with the graphs beside it.
func (b *benchmark) report() error {
	var tables []bench.Table
	if len(b.figures) > 0 {
		tables = append(tables, b.table())
	}
	if len(b.counts()) > 1 {
		tables = append(tables, b.growth())
	}
	if len(b.critics) > 0 {
		tables = append(tables, b.criticTable())
	}
	if b.staged != nil {
		tables = append(tables, b.staged.table())
	}
	var text strings.Builder
	for _, t := range tables {
		fmt.Println("\n" + t.Text())
		text.WriteString(t.Markdown() + "\n")
	}
	if b.markdown == "" {
		return nil
	}
	name, prefix := "make bench", "bench"
	if b.busy {
		name, prefix = "make bench BENCH=-busy", "bench-busy"
	}
	for _, p := range b.pictures() {
		file := prefix + "-" + p.file + ".svg"
		if err := os.WriteFile(filepath.Join(filepath.Dir(b.markdown), file), []byte(p.plot.SVG()), 0o644); err != nil {
			return err
		}
		fmt.Fprintf(&text, "![%s](%s)\n\n", p.plot.Title, file)
	}
	return bench.Publish(b.markdown, name, text.String())
}

// growth is the table of what pods cost that are there.
func (b *benchmark) growth() bench.Table {
	t := bench.Table{
		Title: "How cost grows with the number of pods, a container in each",
		Head: []string{"", "pods", "made, 8 at a time", "one more pod, p50", "ListContainers, p50", "p99", "ListContainerStats, p50", "p99",
			"memory per pod", "idle CPU", "context switches"},
		Notes: []string{"Made: what was added to the line above, by the time it took. One more pod: to its container running, beside those that stand. All else as in the first table. All pods were ready and all containers ran before and after."},
	}
	for _, c := range []string{"containerd", "berth"} {
		for _, s := range b.steps {
			if s.contender != c {
				continue
			}
			rate := ""
			if s.rate > 0 {
				rate = number(s.rate) + " /s"
			}
			t.Rows = append(t.Rows, []string{c, fmt.Sprint(s.pods), rate, number(bench.Quantile(s.start, 0.5)) + " ms",
				number(bench.Quantile(s.list, 0.5)) + " ms", number(bench.Quantile(s.list, 0.99)) + " ms",
				number(bench.Quantile(s.stat, 0.5)) + " ms", number(bench.Quantile(s.stat, 0.99)) + " ms",
				number(s.pss) + " KiB", number(s.idle) + " ms/s", number(s.wakeups) + " /s"})
		}
	}
	return t
}

// pictures are the graphs over the number of pods, with a curve for each contender.
func (b *benchmark) pictures() []picture {
	if len(b.counts()) < 2 {
		return nil // one number of pods is no curve
	}
	const axis = "pods"
	latency := plot.Plot{Title: "Latency, ms (logarithmic)", Axis: axis, Log: true}
	memory := plot.Plot{Title: "Memory of what keeps the pods, MiB (logarithmic)", Axis: axis, Log: true}
	for _, s := range b.steps {
		if s.contender == "berth" {
			latency.X = append(latency.X, float64(s.pods))
		}
	}
	memory.X = latency.X
	p50 := func(of func(step) []float64) func(step) float64 {
		return func(s step) float64 { return bench.Quantile(of(s), 0.5) }
	}
	for _, l := range []struct {
		name string
		of   func(step) float64
		in   *plot.Plot
	}{
		{"one more pod", p50(func(s step) []float64 { return s.start }), &latency},
		{"ListContainers", p50(func(s step) []float64 { return s.list }), &latency},
		{"ListContainerStats", p50(func(s step) []float64 { return s.stat }), &latency},
		{"all pods", func(s step) float64 { return s.pss * float64(s.pods) / 1024 }, &memory},
		{"a pod", func(s step) float64 { return s.pss / 1024 }, &memory},
	} {
		for _, c := range []string{"berth", "containerd"} {
			curve := plot.Curve{Name: l.name + ", " + c, Dashed: c != "berth"}
			for _, s := range b.steps {
				if s.contender == c {
					curve.Y = append(curve.Y, l.of(s))
				}
			}
			l.in.Curves = append(l.in.Curves, curve)
		}
	}
	return []picture{{"latency", latency}, {"memory", memory}}
}
