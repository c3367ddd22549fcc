package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"

	"github.com/berthd/berth/test/bench"
	"github.com/berthd/berth/test/bench/counter"
)

// file has the stored figures, by name.
const file = "baseline.json"

// A figure is what something costs. It may be slack more than the margin above what is stored.
type figure struct {
	name, unit    string
	margin, slack float64
	event         counter.Event // that it is counted by; for CPU too
}

// limit is the most that it may be.
func (f figure) limit(stored float64) float64 { return stored*(1+f.margin) + f.slack }

// Margins. Counts vary with when the garbage collector runs, and little else. CPU is up to a half
// more when many others want the processors: what has become a half dearer is found by the counts.
const (
	cpuMargin   = 0.9
	callsMargin = 0.15
	allocMargin = 0.15
	statsMargin = 0.25
)

// figures are all that is measured. CPU is in thousandths of the fixed piece of work. For a call that
// costs little it is a multiple of Version's instead: how warm the caches are counts for both alike.
// Of ListContainers' allocations those are left out that any call needs.
func figures() []figure {
	const cpu, calls, objects = "‰", "calls", "objects"
	return []figure{
		{"pod up and down: CPU", cpu, cpuMargin, 0, counter.CPU},
		{"pod up and down: system calls", calls, callsMargin, 0, counter.Syscalls},
		{"pod up and down: files opened", "files", callsMargin, 0, counter.Opens},
		{"pod up and down: programs", "programs", 0, 1, counter.Programs}, // one may be started ahead
		{"pod up and down: waits for the disk", calls, 0, 0.5, counter.Syncs},
		{"ExecSync: CPU", cpu, cpuMargin, 0, counter.CPU},
		{"ExecSync: system calls", calls, callsMargin, 0, counter.Syscalls},
		{"ExecSync: programs", "programs", 0, 0.2, counter.Programs},
		{"Version: system calls", calls, callsMargin, 2, counter.Syscalls},
		{"Version: allocations", objects, allocMargin, 20, counter.CPU},
		{"ListContainers: CPU beside Version's", "×", cpuMargin, 0, counter.CPU},
		{"ListContainers: system calls", calls, callsMargin, 2, counter.Syscalls},
		{"ListContainers: allocations beyond Version's", objects, allocMargin, 30, counter.CPU},
		{"ListPodSandbox: allocations", objects, allocMargin, 20, counter.CPU},
		{"ListContainerStats: CPU", cpu, cpuMargin, 0, counter.CPU},
		{"ListContainerStats: system calls", calls, callsMargin, 5, counter.Syscalls},
		{"ListContainerStats: allocations", objects, statsMargin, 600, counter.CPU}, // what berthd does beside counts too, some hundred either way
		{"ContainerStatus: allocations", objects, allocMargin, 20, counter.CPU},
		{"PodSandboxStatus: allocations", objects, allocMargin, 20, counter.CPU},
		{"idle: context switches", "/s", 0.5, 3, counter.Switches},
	}
}

// A measured is the medians, by the figure's name.
type measured struct {
	repo    string
	values  map[string]float64
	without map[counter.Event]error // that are not available on this machine
}

// A finding is a figure beside the stored one.
type finding struct {
	figure
	now, stored     float64
	dearer, cheaper bool
	unknown         string // why there is nothing to compare
}

func (f finding) String() string {
	if f.unknown != "" {
		return f.name + ": " + f.unknown
	}
	return fmt.Sprintf("%s: %.4g %s, stored are %.4g, at most %.4g is allowed", f.name, f.now, f.unit, f.stored, f.limit(f.stored))
}

// compare puts what was measured beside what is stored.
func compare(m measured, stored map[string]float64) (all []finding) {
	for _, f := range figures() {
		found := finding{figure: f, now: m.values[f.name]}
		var ok bool
		found.stored, ok = stored[f.name]
		switch err := m.without[f.event]; {
		case err != nil:
			found.unknown = err.Error()
		case !ok:
			found.unknown = "nothing is stored; go run ./test/bench/baseline -write does it"
			found.dearer = true // than nothing
		default:
			found.dearer = found.now > f.limit(found.stored)
			found.cheaper = f.limit(found.now) < found.stored
		}
		all = append(all, found)
	}
	return all
}

// table is the findings, to be read.
func table(found []finding) bench.Table {
	t := bench.Table{Title: "What operations cost, beside what is stored", Head: []string{"", "stored", "now", "now / stored", "at most", ""}}
	for _, f := range found {
		cells := []string{f.name, "", fmt.Sprintf("%.4g %s", f.now, f.unit), "", "", f.unknown}
		if f.unknown == "" {
			cells[1], cells[4] = fmt.Sprintf("%.4g", f.stored), fmt.Sprintf("%.4g", f.limit(f.stored))
			if f.stored > 0 {
				cells[3] = fmt.Sprintf("%.2f", f.now/f.stored)
			}
			switch {
			case f.dearer:
				cells[5] = "DEARER"
			case f.cheaper:
				cells[5] = "cheaper: -write stores it"
			}
		}
		t.Rows = append(t.Rows, cells)
	}
	return t
}

// read reads the stored figures.
func read(path string) (map[string]float64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var stored map[string]float64
	if err := json.Unmarshal(data, &stored); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return stored, nil
}

// store writes what was measured, if all of it could be.
func store(path string, m measured) error {
	rounded := map[string]float64{}
	for _, f := range figures() {
		if err := m.without[f.event]; err != nil {
			return fmt.Errorf("nothing is stored: %s: %w", f.name, err)
		}
		rounded[f.name] = math.Round(m.values[f.name]*100) / 100
	}
	data, err := json.MarshalIndent(rounded, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
