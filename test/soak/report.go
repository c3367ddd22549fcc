package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/berthd/berth/test/bench"
)

// The section of reliability.md that is the soak's.
const (
	sectionBegins = "<!-- soak: written by make soak -->"
	sectionEnds   = "<!-- soak ends -->"
)

// report writes the table and the graphs into the docs, if it is to.
func (m *motion) report(say func(string)) error {
	say("done: " + m.counts.line("did: "))
	say("failed in trouble: " + m.counts.line("failed in trouble: "))
	say("troubles: " + m.counts.line("trouble: "))
	if m.docs == "" || len(m.samples) == 0 {
		return nil
	}
	for name, g := range m.graphs() {
		if err := os.WriteFile(filepath.Join(m.docs, name), []byte(g.svg()), 0o644); err != nil {
			return err
		}
	}
	path := filepath.Join(m.docs, "reliability.md")
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(data), sectionBegins)
	_, after, ended := strings.Cut(rest, sectionEnds)
	if !ok || !ended {
		return fmt.Errorf("%s: has no section %s … %s", path, sectionBegins, sectionEnds)
	}
	return os.WriteFile(path, []byte(before+sectionBegins+"\n"+m.section()+sectionEnds+after), 0o644)
}

// section is the soak's part of the page.
func (m *motion) section() string {
	last := m.samples[len(m.samples)-1]
	over := func(of func(sample) float64) (row []string) {
		var all []time.Duration
		for _, s := range m.samples {
			all = append(all, time.Duration(of(s)*1000))
		}
		for _, q := range []float64{0, 0.5, 1} {
			row = append(row, fmt.Sprintf("%.0f", float64(bench.Quantile(all, q))/1000))
		}
		return append(row, fmt.Sprintf("%.0f", of(last)))
	}
	t := bench.Table{
		Title: fmt.Sprintf("%s of motion, %d pods, %d rounds, seed %d", m.duration, m.pods, len(m.samples), m.seed),
		Head:  []string{"after a round, nothing moving", "least", "median", "most", "last"},
	}
	for _, r := range []struct {
		name string
		of   func(sample) float64
	}{
		{"containers", func(s sample) float64 { return float64(s.containers) }},
		{"berthd: resident memory, MiB", func(s sample) float64 { return s.memory / 1024 }},
		{"berthd: descriptors", func(s sample) float64 { return s.descriptors }},
		{"berthd: goroutines", func(s sample) float64 { return s.goroutines }},
		{"shims", func(s sample) float64 { return float64(s.shims) }},
		{"all shims: resident memory, MiB", func(s sample) float64 { return s.shimMemory / 1024 }},
		{"all shims: descriptors", func(s sample) float64 { return s.shimDescriptors }},
		{"seconds until all was as it should be", func(s sample) float64 { return s.settled.Seconds() }},
	} {
		t.Rows = append(t.Rows, append([]string{r.name}, over(r.of)...))
	}
	var b strings.Builder
	b.WriteString("\n" + t.Markdown() + "\n")
	fmt.Fprintf(&b, "Findings: none. Done: %s.\n\nTroubles: %s.\n", m.counts.line("did: "), m.counts.line("trouble: "))
	if failed := m.counts.line("failed in trouble: "); failed != "" {
		fmt.Fprintf(&b, "\nCalls that failed while something was in trouble, whose pods were then removed or which were made again: %s.\n", failed)
	}
	b.WriteString("\n")
	names := []string{}
	for name := range m.graphs() {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&b, "![%s](%s)\n", strings.TrimSuffix(name, ".svg"), name)
	}
	return b.String() + "\n"
}

// graphs are drawn over the rounds, by their files' names.
func (m *motion) graphs() map[string]graph {
	line := func(name string, of func(sample) float64) curve {
		c := curve{name: name}
		for _, s := range m.samples {
			c.y = append(c.y, of(s))
		}
		return c
	}
	return map[string]graph{
		"soak-memory.svg": {"Resident memory in MiB, after each round", []curve{
			line("berthd", func(s sample) float64 { return s.memory / 1024 }),
			line("all shims", func(s sample) float64 { return s.shimMemory / 1024 }),
		}},
		"soak-leaks.svg": {"Descriptors and goroutines, after each round", []curve{
			line("berthd: descriptors", func(s sample) float64 { return s.descriptors }),
			line("berthd: goroutines", func(s sample) float64 { return s.goroutines }),
			line("all shims: descriptors", func(s sample) float64 { return s.shimDescriptors }),
			line("containers", func(s sample) float64 { return float64(s.containers) }),
		}},
	}
}
