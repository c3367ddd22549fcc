package main

import (
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/berthd/berth/test/bench"
	"github.com/berthd/berth/test/bench/bigimage"
	"github.com/berthd/berth/test/bench/profile"
)

// What berth is to reach, against containerd in the same round.
const (
	wallTarget = 0.45
	cpuTarget  = 0.60
	diskTarget = 0.72
)

// A column is one figure of a pull.
type column struct {
	head   string
	of     func(result) float64
	format func(float64) string
	target float64 // of the ratio; 0: none
}

func columns() []column {
	return []column{
		{"wall", func(r result) float64 { return r.wall.Seconds() }, seconds, wallTarget},
		{"CPU", func(r result) float64 { return r.cpu.Seconds() }, seconds, cpuTarget},
		{"machine's CPU", func(r result) float64 { return r.machine.Seconds() }, seconds, 0},
		{"written", func(r result) float64 { return float64(r.written) }, megabytes, 0},
		{"disk used", func(r result) float64 { return float64(r.disk) }, megabytes, diskTarget},
		{"peak memory", func(r result) float64 { return float64(r.peak) }, megabytes, 0},
		{"served", func(r result) float64 { return float64(r.served) }, megabytes, 0},
		{"GETs", func(r result) float64 { return float64(r.asked) }, func(v float64) string { return fmt.Sprintf("%.0f", v) }, 0},
	}
}

func seconds(v float64) string   { return fmt.Sprintf("%.2f s", v) }
func megabytes(v float64) string { return fmt.Sprintf("%.1f MB", v/1e6) }

// tables are all that the benchmark has to say.
func (b *benchmark) tables() (all []bench.Table) {
	for _, img := range b.Layout.Images {
		if len(b.results[key{"containerd", img.Packing}]) == 0 {
			continue
		}
		all = append(all, b.figures(img), b.stages(img.Packing))
		all = append(all, b.own(img.Packing)...)
		all = append(all, b.work(img.Packing)...)
	}
	return all
}

// figures is the table of medians and ratios.
func (b *benchmark) figures(img bigimage.Image) bench.Table {
	t := bench.Table{
		Title: fmt.Sprintf("Pull, %s: %s compressed in %d layers (the largest %s), %s in %d files; medians of %d rounds",
			img.Packing, megabytes(float64(img.Compressed)), len(img.Layers), megabytes(largest(img.Layers)), megabytes(float64(img.Bytes)), img.Files, b.rounds),
		Head: []string{""},
	}
	for _, c := range columns() {
		t.Head = append(t.Head, c.head)
	}
	base := b.results[key{"containerd", img.Packing}]
	synced := withSync(base)
	for _, c := range b.contenders() {
		mine := b.results[key{c.name, img.Packing}]
		t.Rows = append(t.Rows, medians(c.name, mine))
		if c.name == "containerd" {
			t.Rows = append(t.Rows, medians("containerd + sync", synced))
			continue
		}
		t.Rows = append(t.Rows, medians(c.name+" + sync", withSync(mine)))
	}
	for _, c := range b.contenders()[1:] {
		mine := b.results[key{c.name, img.Packing}]
		t.Rows = append(t.Rows, ratios(c.name+" / containerd", mine, base, 0.5))
		if b.rounds > 2 {
			t.Rows = append(t.Rows, ratios("  least", mine, base, 0), ratios("  most", mine, base, 1))
		}
		t.Rows = append(t.Rows, ratios(c.name+" / containerd + sync", mine, synced, 0.5))
	}
	targets := []string{"target"}
	for _, c := range columns() {
		cell := ""
		if c.target > 0 {
			cell = fmt.Sprintf("≤ %.2f", c.target)
		}
		targets = append(targets, cell)
	}
	t.Rows = append(t.Rows, targets)
	t.Notes = append(t.Notes, "Ratios are medians of each round's. containerd leaves what it has unpacked to the page cache; + sync is with sync -f of the store after the pull.",
		"The machine's CPU is without the registry's, and with that of whatever else ran."+decompressor(b.helpers && img.Packing == "gzip"))
	return t
}

// decompressor says that containerd has help in unpacking gzip, if it has and may.
func decompressor(may bool) string {
	if !may {
		return ""
	}
	for _, p := range []string{"igzip", "unpigz"} {
		if path, err := exec.LookPath(p); err == nil {
			return " containerd unpacks gzip with " + path + "."
		}
	}
	return ""
}

func largest(list []int64) (most float64) {
	for _, v := range list {
		most = max(most, float64(v))
	}
	return most
}

// withSync adds the time of the sync to the pull's.
func withSync(list []result) (out []result) {
	for _, r := range list {
		r.wall += r.sync
		out = append(out, r)
	}
	return out
}

func values(list []result, of func(result) float64) (all []float64) {
	for _, r := range list {
		all = append(all, of(r))
	}
	return all
}

func medians(name string, list []result) []string {
	row := []string{name}
	for _, c := range columns() {
		row = append(row, c.format(bench.Quantile(values(list, c.of), 0.5)))
	}
	return row
}

func ratios(name string, mine, base []result, q float64) []string {
	row := []string{name}
	for _, c := range columns() {
		all := bench.Ratios(values(mine, c.of), values(base, c.of))
		cell := ""
		if len(all) > 0 {
			cell = fmt.Sprintf("%.2f", bench.Quantile(all, q))
		}
		row = append(row, cell)
	}
	return row
}

// stages is the table of where the wall time goes, as the registry sees it.
func (b *benchmark) stages(packing string) bench.Table {
	t := bench.Table{Title: "Where the time goes, " + packing, Head: []string{"", "to the first layer's request", "to the last layer's last byte", "to the answer", "sync afterwards"}}
	for _, c := range b.contenders() {
		list := b.results[key{c.name, packing}]
		row := []string{c.name}
		for _, of := range []func(result) time.Duration{
			func(r result) time.Duration { return r.resolve }, func(r result) time.Duration { return r.layers },
			func(r result) time.Duration { return r.tail }, func(r result) time.Duration { return r.sync },
		} {
			row = append(row, seconds(bench.Quantile(values(list, func(r result) float64 { return of(r).Seconds() }), 0.5)))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// listed is how many shares of a profile are listed.
const listed = 16

// work is a table of where the CPU goes for each contender.
func (b *benchmark) work(packing string) (all []bench.Table) {
	if b.noPerf != nil {
		return []bench.Table{{Title: "Where the CPU goes is not known: " + b.noPerf.Error()}}
	}
	for _, c := range b.contenders() {
		p, ok := b.profiles[key{c.name, packing}]
		if !ok {
			continue
		}
		t := bench.Table{
			Title: fmt.Sprintf("Where the CPU goes, %s, %s: %s in one pull under perf", c.name, packing, seconds(p.CPU.Seconds())),
			Head:  []string{"by work", "CPU", "share", "by its own function", "CPU", "share"},
		}
		for i := range min(listed, max(len(p.Work), len(p.Code))) {
			t.Rows = append(t.Rows, append(share(p.Work, i, p.CPU), share(p.Code, i, p.CPU)...))
		}
		all = append(all, t)
	}
	return all
}

func share(list []profile.Share, i int, of time.Duration) []string {
	if i >= len(list) {
		return []string{"", "", ""}
	}
	s := list[i]
	return []string{strings.TrimSpace(s.Name), seconds(s.CPU.Seconds()), fmt.Sprintf("%.1f %%", 100*s.CPU.Seconds()/of.Seconds())}
}
