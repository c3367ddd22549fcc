package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berthd/berth/test/bench"
)

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.2f ms", d.Seconds()*1000) }

func kib(n int64) string { return strconv.FormatInt(n>>10, 10) }

// calls are in the order of a pod's life.
var calls = []string{"RunPodSandbox", "CreateContainer", "StartContainer", "StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox"}

func livesTable(n int, took map[string][]time.Duration, cpu time.Duration) bench.Table {
	t := bench.Table{
		Title: fmt.Sprintf("A pod's life, %d times, one at a time", n),
		Head:  []string{"", "p50", "p90", "most"},
		Notes: []string{fmt.Sprintf("CPU of berthd and what it has waited for: %s per pod.", milliseconds(cpu/time.Duration(n)))},
	}
	var sum time.Duration
	for _, name := range calls {
		all := took[name]
		sum += bench.Quantile(all, 0.5)
		t.Rows = append(t.Rows, []string{name, milliseconds(bench.Quantile(all, 0.5)), milliseconds(bench.Quantile(all, 0.9)), milliseconds(bench.Quantile(all, 1))})
	}
	t.Rows = append(t.Rows, []string{"sum", milliseconds(sum), "", ""})
	return t
}

func commandsTable(took []time.Duration, cpu time.Duration) bench.Table {
	return bench.Table{
		Title: fmt.Sprintf("ExecSync of true, %d times, one at a time", len(took)),
		Head:  []string{"p50", "p90", "most", "CPU of berthd, shim and command"},
		Rows:  [][]string{{milliseconds(bench.Quantile(took, 0.5)), milliseconds(bench.Quantile(took, 0.9)), milliseconds(bench.Quantile(took, 1)), milliseconds(cpu)}},
	}
}

func memoriesTable(all []memory) bench.Table {
	t := bench.Table{
		Title: "PSS, KiB",
		Head:  []string{"pods", "shims", "berthd", "anonymous", "file", "shims'", "anonymous", "file", "per pod"},
		Notes: []string{"Per pod: all of the shims', and what berthd has more than without pods."},
	}
	for _, m := range all {
		row := []string{fmt.Sprint(m.pods), fmt.Sprint(m.shims), kib(m.daemon), kib(m.daemonAnon), kib(m.daemonFil), kib(m.shim), kib(m.shimAnon), kib(m.shimFile), ""}
		if m.pods > 0 {
			row[8] = kib((m.shim + m.daemon - all[0].daemon) / int64(m.pods))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

func loggedTable(rows []logged) bench.Table {
	t := bench.Table{
		Title: "A container's output to its log",
		Head:  []string{"", "said, MiB", "log, MiB", "said, MiB/s", "log, MiB/s", "CPU of the shim, ms/MiB said"},
		Notes: []string{"From StartContainer until the container has ended and all is logged."},
	}
	for _, l := range rows {
		s := l.took.Seconds()
		said, size := float64(l.said)/(1<<20), float64(l.size)/(1<<20)
		t.Rows = append(t.Rows, []string{l.name, fmt.Sprintf("%.0f", said), fmt.Sprintf("%.0f", size), fmt.Sprintf("%.1f", said/s), fmt.Sprintf("%.1f", size/s), fmt.Sprintf("%.2f", l.shim.Seconds()*1000/said)})
	}
	return t
}

var stageLine = regexp.MustCompile(`^berth_stage_seconds_(sum|count)\{object="([^"]*)",stage="([^"]*)"\} (\S+)$`)

// stages reads berthd's own account.
func (b *benchmark) stages(ctx context.Context) (t bench.Table, err error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", b.metrics)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://berth/metrics", nil)
	if err != nil {
		return t, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return t, err
	}
	defer resp.Body.Close()
	sum, count := map[string]float64{}, map[string]float64{}
	var names []string
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		m := stageLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		name := m[2] + ": " + m[3]
		v, err := strconv.ParseFloat(m[4], 64)
		if err != nil {
			return t, err
		}
		if m[1] == "sum" {
			sum[name] = v
			names = append(names, name)
		} else {
			count[name] = v
		}
	}
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(a, b) })
	t = bench.Table{Title: "Stages, of all pods so far", Head: []string{"", "times", "mean"}}
	for _, name := range names {
		t.Rows = append(t.Rows, []string{name, fmt.Sprint(count[name]), fmt.Sprintf("%.2f ms", sum[name]/count[name]*1000)})
	}
	return t, nil
}

// isShim tells whether a process with that command line is a shim of the node.
func isShim(args []byte, state string) bool {
	return bytes.Contains(args, []byte("\x00serve\x00")) && bytes.Contains(args, []byte(state))
}

// pss is a process's share of memory in bytes, and that of anonymous memory and of files.
func pss(pid int) (sum, anon, file int64, err error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
	if err != nil {
		return 0, 0, 0, err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "Pss:":
			sum = n << 10
		case "Pss_Anon:":
			anon = n << 10
		case "Pss_File:":
			file = n << 10
		}
	}
	return sum, anon, file, nil
}
