package main

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/berthd/berth/test/bench"
)

// restTable has what each program costs at rest.
func (b *benchmark) restTable() bench.Table {
	t := bench.Table{
		Title: fmt.Sprintf("At rest for %v with %d pods of one container", b.rest, b.pods),
		Head:  []string{"", "processes", "wakeups/s", "seconds with one", "preemptions/s", "CPU, ms/s", "PSS, KiB", "PSS without pods, KiB"},
		Notes: []string{"Wakeups are voluntary context switches of all threads: a thread goes to sleep once for each time it was woken."},
	}
	for _, c := range b.contenders {
		for _, program := range slices.Sorted(maps.Keys(c.rest)) {
			r := c.rest[program]
			empty := ""
			if program == "berthd" || program == "containerd" {
				empty = fmt.Sprint(c.empty)
			}
			t.Rows = append(t.Rows, []string{c.node.Name + ": " + program, fmt.Sprint(r.processes), fmt.Sprintf("%.2f", r.woken), fmt.Sprint(r.awake), fmt.Sprintf("%.2f", r.preempted),
				fmt.Sprintf("%.2f", r.cpu), fmt.Sprint(r.memory), empty})
		}
	}
	return t
}

// callTable has how long calls take, one at a time.
func (b *benchmark) callTable() bench.Table {
	t := bench.Table{
		Title: fmt.Sprintf("Asked %d times with %d pods of one container", b.asks, b.pods),
		Head:  []string{""},
		Notes: []string{"CPU is the daemon's, as the scheduler counts it, in each call."},
	}
	for _, c := range b.contenders {
		t.Head = append(t.Head, c.node.Name+", p50", "p99", "CPU")
	}
	if len(b.contenders) > 1 {
		t.Head = append(t.Head, "ratio of p50")
	}
	for _, k := range kinds {
		row := []string{k.name}
		var medians []float64
		for _, c := range b.contenders {
			all := c.calls[k.name]
			median := bench.Quantile(all, 0.5)
			medians = append(medians, float64(median))
			row = append(row, milliseconds(median), milliseconds(bench.Quantile(all, 0.99)), milliseconds(c.callCPU[k.name]/time.Duration(len(all))))
		}
		if len(medians) > 1 {
			row = append(row, fmt.Sprintf("%.2f", medians[0]/medians[1]))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.2f ms", d.Seconds()*1000) }
