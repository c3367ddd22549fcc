package main

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/berthd/berth/test/bench"
)

// A result is what became of one runtime that met one fault.
type result struct {
	runtime, fault, party string

	quiet, faulty [][]time.Duration          // others' pods until they ran, by turn
	took          map[string][]time.Duration // kubelet's questions during the fault, by method
	said          string                     // what was said of the pod that met it
	silent        bool                       // nothing was
	notReady      time.Duration              // until Status said so; -1: it did not; 0: not looked for
	reason        string                     // what Status said
	back          time.Duration              // from the party's working again to all being well
	failures      []string
}

func (r *result) wrong(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *result) asks(took map[string][]time.Duration) {
	if r.took == nil {
		r.took = map[string][]time.Duration{}
	}
	for method, all := range took {
		r.took[method] = append(r.took[method], all...)
	}
}

// ratio is the median over turns of others' p99 with the fault to that without.
func (r *result) ratio() float64 {
	var ratios []float64
	for i := range r.faulty {
		if len(r.faulty[i]) > 0 && len(r.faulty[i]) == len(r.quiet[i]) {
			ratios = append(ratios, bench.Quantile(r.faulty[i], 0.99).Seconds()/bench.Quantile(r.quiet[i], 0.99).Seconds())
		}
	}
	return bench.Quantile(ratios, 0.5)
}

// cells are the table's, after the fault's name.
func (r *result) cells() []string {
	dash := func(ok bool, text string) string {
		if ok {
			return text
		}
		return "–"
	}
	p99 := func(methods ...string) time.Duration {
		var worst time.Duration
		for _, m := range methods {
			worst = max(worst, bench.Quantile(r.took[m], 0.99))
		}
		return worst
	}
	others := dash(r.ratio() > 0, fmt.Sprintf("%.2f", r.ratio()))
	if r.ratio() == 0 && len(r.faulty) > 0 {
		others = "stuck"
	}
	said := cmp.Or(map[bool]string{true: "no"}[r.silent], dash(r.said != "", "yes"))
	notReady := dash(r.notReady != 0, fmt.Sprintf("%.0f s", r.notReady.Seconds()))
	if r.notReady < 0 {
		notReady = "never"
	}
	back := dash(r.back > 0, fmt.Sprintf("%.1f s", r.back.Seconds()))
	if slices.ContainsFunc(r.failures, func(f string) bool { return strings.Contains(f, "recover") || strings.Contains(f, "removed") }) {
		back = "no"
	}
	ms := func(d time.Duration) string {
		return dash(d > 0, fmt.Sprintf("%.1f ms", d.Seconds()*1000))
	}
	return []string{r.runtime, others, ms(p99("ListPodSandbox", "ListContainers")), ms(p99("Status")), said, notReady, back}
}

// line is the result on a terminal, at once.
func (r *result) line() string {
	text := r.fault + ": " + strings.Join(r.cells(), "  ")
	for _, more := range []string{"says: " + r.said, "Status: " + r.reason} {
		if !strings.HasSuffix(more, ": ") {
			text += "\n    " + more
		}
	}
	for _, f := range r.failures {
		text += "\n    WRONG: " + strings.ReplaceAll(f, "\n", "\n      ")
	}
	return text
}

func table(all []*result, o setting) bench.Table {
	t := bench.Table{
		Title: fmt.Sprintf("A party that lets the runtime down: %d turns of %d other pods without it and with it", o.turns, o.pods),
		Head:  []string{"", "runtime", "others' p99, ratio", "lists, p99", "Status, p99", "says what it waits for", "not ready after", "well after"},
		Notes: []string{
			"Ratio: the median over the turns of p99 from RunPodSandbox to StartContainer's answer, with the fault to without; 1.20 at most is wanted. Lists and Status: 5 ms at most.",
			"Says: the pod's error, or `berth why`, names the party or the stage. Not ready: Status says so, and why, when no pod can start; 30 s at most. Well: from the party's working again until all that waited is done and a pod runs.",
		},
	}
	for _, r := range all {
		t.Rows = append(t.Rows, append([]string{r.party}, r.cells()...))
	}
	return t
}

func text(all []*result, o setting) string     { return table(all, o).Text() }
func markdown(all []*result, o setting) string { return table(all, o).Markdown() }

// The lines between which the table is.
const (
	beginMark = "<!-- make test-faults -->"
	endMark   = "<!-- end -->"
)

// publish puts text between the markers of the file path.
func publish(path, text string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(data), beginMark)
	_, after, ok2 := strings.Cut(rest, endMark)
	if !ok || !ok2 {
		return fmt.Errorf("%s: no lines %q and %q, between which the table goes", path, beginMark, endMark)
	}
	return os.WriteFile(path, []byte(before+beginMark+"\n\n"+text+"\n"+endMark+after), 0o644)
}
