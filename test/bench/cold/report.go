package main

import (
	"fmt"
	"time"

	"github.com/berthd/berth/test/bench"
)

// besideTarget is how much longer the slowest of a hundred pods may take during a pull.
const besideTarget = 1.5

// once is the table of the pods of the cold image.
func (b *benchmark) once() bench.Table {
	t := bench.Table{
		Title: fmt.Sprintf("%d pods of one cold image at once, %s", b.together, b.packing),
		Head:  []string{"", "one copy, bytes", "served, bytes", "copies", "GETs", "first pod runs", "last pod runs"},
		Notes: []string{"Target: exactly one copy. Times are from the first call, the sandboxes included."},
	}
	for _, m := range b.all {
		t.Rows = append(t.Rows, []string{
			m.name, fmt.Sprint(m.size), fmt.Sprint(m.served), copies(m), fmt.Sprint(m.asked),
			fmt.Sprintf("%.2f s", bench.Quantile(m.took, 0).Seconds()), fmt.Sprintf("%.2f s", bench.Quantile(m.took, 1).Seconds()),
		})
	}
	return t
}

func copies(m measured) string {
	if m.served == m.size {
		return "1"
	}
	return fmt.Sprintf("%.4f", float64(m.served)/float64(m.size))
}

// beside is the table of the pods of the warm image.
func (b *benchmark) beside() bench.Table {
	t := bench.Table{
		Title: fmt.Sprintf("Pods of a warm image, one at a time, without and with a pull of the big image (%s): %d pods each", b.packing, b.pods),
		Head:  []string{"", "to running, p50", "p99", "most", "stop and remove, p50", "p99"},
	}
	for _, m := range b.all {
		t.Rows = append(t.Rows, row(m.name+", idle", m.idle), row(m.name+", during a pull", m.during), ratio(m))
		t.Notes = append(t.Notes, fmt.Sprintf("%s: %d pulls were begun.", m.name, m.pulls))
	}
	t.Rows = append(t.Rows, []string{"target, during / idle", "", fmt.Sprintf("≤ %.2f", besideTarget), "", "", ""})
	return t
}

// figures are the columns of beside.
func figures(samples []bench.Sample) (all []time.Duration) {
	var removals []time.Duration
	for _, s := range samples {
		removals = append(removals, s.Remove)
	}
	up := ups(samples)
	return []time.Duration{
		bench.Quantile(up, 0.5), bench.Quantile(up, 0.99), bench.Quantile(up, 1), bench.Quantile(removals, 0.5), bench.Quantile(removals, 0.99),
	}
}

func row(name string, samples []bench.Sample) []string {
	cells := []string{name}
	for _, d := range figures(samples) {
		cells = append(cells, milliseconds(d))
	}
	return cells
}

func ratio(m measured) []string {
	cells := []string{"  during / idle"}
	idle, during := figures(m.idle), figures(m.during)
	for i := range idle {
		cells = append(cells, fmt.Sprintf("%.2f", during[i].Seconds()/idle[i].Seconds()))
	}
	return cells
}
