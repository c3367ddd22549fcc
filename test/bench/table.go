package bench

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// A Table is what a benchmark prints: on a terminal, or as markdown for the docs.
type Table struct {
	Title string
	Head  []string
	Rows  [][]string // each with a cell for each of Head, the first a name
	Notes []string   // lines below
}

// Text is the table in columns of even width, the first flush left.
func (t Table) Text() string {
	width := make([]int, len(t.Head))
	for _, row := range append([][]string{t.Head}, t.Rows...) {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", t.Title)
	for _, row := range append([][]string{t.Head}, t.Rows...) {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				line.WriteString(cell + pad)
			} else {
				line.WriteString("  " + pad + cell)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	for _, n := range t.Notes {
		b.WriteString(n + "\n")
	}
	return b.String()
}

// Markdown is the table as a table of markdown, below its title in bold.
func (t Table) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "**%s**\n\n| %s |\n|%s\n", t.Title, strings.Join(t.Head, " | "), "---|"+strings.Repeat("---:|", max(0, len(t.Head)-1)))
	for _, row := range t.Rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
	}
	for _, n := range t.Notes {
		b.WriteString("\n" + n + "\n")
	}
	return b.String()
}

// Quantile is the value below which the share q of values lies, between the two nearest in
// proportion, or 0 without any: 0 is the least, 0.5 the median, 1 the most.
func Quantile[T ~int64 | ~float64](values []T, q float64) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	below := int(at)
	if below >= len(sorted)-1 {
		return sorted[len(sorted)-1]
	}
	return sorted[below] + T((at-float64(below))*float64(sorted[below+1]-sorted[below]))
}

// Ratios pairs the rounds of two contenders: a[i] with b[i]. A round in which one has no value counts for neither.
func Ratios(a, b []float64) (all []float64) {
	for i := range min(len(a), len(b)) {
		if a[i] > 0 && b[i] > 0 {
			all = append(all, a[i]/b[i])
		}
	}
	return all
}
