package main

import (
	"fmt"
	"strings"

	"github.com/berthd/berth/test/bench"
)

// A goal is what berth is to reach. The zero value is none.
type goal struct {
	ratio   float64 // to containerd's median
	plugins float64 // the same where the network's plugins run as programs; 0: no other
	least   bool    // at least, rather than at most
	value   float64 // at most, in the row's unit, whatever containerd's is
}

func (g goal) String() string {
	sign := "≤"
	if g.least {
		sign = "≥"
	}
	switch {
	case g.value > 0:
		return fmt.Sprintf("≤ %g", g.value)
	case g.ratio == 0:
		return ""
	case g.plugins > 0:
		return fmt.Sprintf("%s %.2f (plugins: %.2f)", sign, g.ratio, g.plugins)
	}
	return fmt.Sprintf("%s %.2f", sign, g.ratio)
}

// verdict says whether the goal is met.
func (g goal) verdict(ratio, value float64) string {
	within := func(limit float64) bool { return ratio <= limit != g.least || ratio == limit }
	switch {
	case g.value > 0 && value <= g.value, g.ratio > 0 && within(g.ratio):
		return "met"
	case g.plugins > 0 && within(g.plugins):
		return "plugins' only"
	case g.ratio == 0 && g.value == 0:
		return ""
	}
	return "**not met**"
}

// A row is a figure of the table.
type row struct {
	key, name string
	unit      string
	tail      bool // there are enough values for a p99
	goal      goal
	note      string // what is counted
}

// rows are the table's, in order.
func rows() []row {
	return []row{
		{"up", "RunPodSandbox → container running", "ms", true, goal{ratio: 0.12, plugins: 0.30},
			"one pod at a time, the runtimes in turns: from the call of RunPodSandbox to StartContainer's answer, as a client on the socket sees it. The container has RuntimeDefault seccomp, a memory limit and a log."},
		{"pod", "– RunPodSandbox", "ms", true, goal{}, ""},
		{"create", "– CreateContainer", "ms", true, goal{}, ""},
		{"start", "– StartContainer", "ms", true, goal{}, ""},
		{"down", "stop and remove container and pod", "ms", true, goal{ratio: 0.2, plugins: 0.5},
			"StopContainer without a grace period, RemoveContainer, StopPodSandbox, RemovePodSandbox of the same pods."},
		{"together", "pods up and down, 8 at a time", "/s", false, goal{ratio: 5, plugins: 2.5, least: true},
			"pods that eight clients run and remove, each one after the other, by the time that all of them took."},
		{"cpu", "CPU of the whole machine per pod up and down", "ms", false, goal{ratio: 0.2, plugins: 0.4},
			"what /proc/stat counts as busy while pods are run and removed one at a time, and half a second after, by their number: with the kernel's own threads, without the measuring program."},
		{"exec", "ExecSync `true`", "ms", true, goal{ratio: 0.25}, "one at a time, in turns of 20."},
		{"execcpu", "CPU per ExecSync", "ms", false, goal{ratio: 0.25}, "as per pod, for each turn."},
		{"pss", "memory per pod", "KiB", false, goal{ratio: 0.03},
			"PSS of the processes that keep pods (daemon, shims, pause) with all pods there and idle, less the daemon's without pods, by the number of pods. Containers' own memory is not in it."},
		{"idlepss", "daemon's PSS, idle", "MiB", false, goal{ratio: 0.6}, "without pods, after the first of them have come and gone."},
		{"fullpss", "daemon's PSS with the pods", "MiB", false, goal{}, ""},
		{"idle", "idle CPU with the pods", "ms/s", false, goal{value: 5}, "of daemon and shims, by the scheduler's account, while nobody calls."},
		{"wakeups", "context switches with the pods", "/s", false, goal{}, "of all threads of daemon and shims in the same time: how often one that ran has stopped."},
		{"logs", "container log throughput", "MiB/s", false, goal{ratio: 8, least: true},
			"a container copies 64 MiB in lines of 100 bytes to its stdout: from the log's first byte to its last."},
		{"list", "ListContainers", "ms", true, goal{ratio: 0.5}, "with the pods there, a container in each, in turns of 10 calls while the other runtime stands still (SIGSTOP)."},
		{"empty", "– a call that answers nothing", "ms", true, goal{}, "Version, likewise: what gRPC and the measuring program take of each call."},
		{"stats", "ListContainerStats", "ms", true, goal{ratio: 0.15}, "likewise, in turns of 4."},
		{"restart", "daemon killed: first correct full list", "s", false, goal{ratio: 0.25}, "from the start of the new process until lists of pods and containers have all of them, running."},
		{"gzip", "pull, 6 gzip layers", "s", false, goal{ratio: 0.45}, "PullImage of the image of `make bench-pull` into an empty store. containerd leaves it to the page cache, berth's is on the disk."},
		{"zstd", "– the same, zstd", "s", false, goal{ratio: 0.45}, ""},
		{"disk", "disk used by that image", "MB", false, goal{ratio: 0.72}, "what the store's files take (gzip)."},
	}
}

// A figure is the values of a row, by contender.
type figure struct{ values map[string][]float64 }

// note adds a value.
func (b *benchmark) note(key string, c *contender, value float64) { b.noteOf(key, c.name, value) }

func (b *benchmark) noteOf(key, contender string, value float64) {
	f := b.figures[key]
	if f == nil {
		f = &figure{map[string][]float64{}}
		b.figures[key] = f
	}
	f.values[contender] = append(f.values[contender], value)
}

func (f *figure) at(contender string, q float64) float64 {
	return bench.Quantile(f.values[contender], q)
}

// table is the figures beside their goals.
func (b *benchmark) table() bench.Table {
	t := bench.Table{
		Title: fmt.Sprintf("berth beside containerd 2.4.2 in one run%s; %d pods where it says the pods", map[bool]string{true: ", one core kept busy"}[b.busy], b.pods),
		Head:  []string{"", "containerd, p50", "p99", "berth, p50", "p99", "berth / containerd", "of p99", "target", "", "n"},
	}
	for _, r := range rows() {
		f := b.figures[r.key]
		if f == nil {
			continue
		}
		them, us := f.at("containerd", 0.5), f.at("berth", 0.5)
		cells := []string{r.name, number(them) + " " + r.unit, "", number(us) + " " + r.unit, "", "", "", r.goal.String(), "", fmt.Sprint(len(f.values["berth"]))}
		ratio := 0.0
		if them > 0 {
			ratio = us / them
			cells[5] = fmt.Sprintf("%.3f", ratio)
			if ratio >= 1 {
				cells[5] = fmt.Sprintf("%.1f", ratio)
			}
		}
		cells[8] = r.goal.verdict(ratio, us)
		if r.tail {
			them, us := f.at("containerd", 0.99), f.at("berth", 0.99)
			cells[2], cells[4] = number(them)+" "+r.unit, number(us)+" "+r.unit
			if them > 0 {
				cells[6] = fmt.Sprintf("%.3f", us/them)
			}
		}
		t.Rows = append(t.Rows, cells)
		if r.note != "" {
			t.Notes = append(t.Notes, "*"+strings.TrimPrefix(r.name, "– ")+"*: "+r.note)
		}
	}
	return t
}

// number has three digits that count.
func number(v float64) string {
	switch {
	case v >= 100 || v == 0:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}
