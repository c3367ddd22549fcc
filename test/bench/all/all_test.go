package main

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/test/bench/profile"
)

func TestVerdict(t *testing.T) {
	tests := []struct {
		name         string
		goal         goal
		ratio, value float64
		want         string
	}{
		{"there is none", goal{}, 3, 3, ""},
		{"at most", goal{ratio: 0.25}, 0.25, 9, "met"},
		{"more than at most", goal{ratio: 0.25}, 0.26, 9, "**not met**"},
		{"at least", goal{ratio: 8, least: true}, 8, 9, "met"},
		{"less than at least", goal{ratio: 8, least: true}, 7.9, 9, "**not met**"},
		{"what plugins allow", goal{ratio: 0.12, plugins: 0.3}, 0.2, 9, "plugins' only"},
		{"more than plugins allow", goal{ratio: 0.12, plugins: 0.3}, 0.31, 9, "**not met**"},
		{"at least what plugins allow", goal{ratio: 5, plugins: 2.5, least: true}, 3, 9, "plugins' only"},
		{"a value", goal{value: 5}, 0, 4.9, "met"},
		{"too large a value", goal{value: 5}, 0, 5.1, "**not met**"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.goal.verdict(tt.ratio, tt.value); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// TestTable: a row without values is left out, and every row has as many cells as the head.
func TestTable(t *testing.T) {
	b := &benchmark{figures: map[string]*figure{}}
	for i := range 3 {
		b.noteOf("up", "containerd", float64(100*(i+1)))
		b.noteOf("up", "berth", float64(10*(i+1)))
	}
	b.noteOf("idle", "berth", 0)
	table := b.table()
	if len(table.Rows) != 2 {
		t.Fatalf("rows: %q", table.Rows)
	}
	for _, r := range table.Rows {
		if len(r) != len(table.Head) {
			t.Errorf("%d cells under %d heads: %q", len(r), len(table.Head), r)
		}
	}
	if want := []string{"200 ms", "298 ms", "20.0 ms", "29.8 ms", "0.100", "0.100"}; !slices.Equal(table.Rows[0][1:7], want) || table.Rows[0][8] != "met" {
		t.Errorf("%q, want %q", table.Rows[0], want)
	}
	keys := map[string]bool{}
	for _, r := range rows() {
		if keys[r.key] {
			t.Errorf("two rows are %s", r.key)
		}
		keys[r.key] = true
	}
}

// TestStages reads a verbose status whose times go past midnight.
func TestStages(t *testing.T) {
	begin := time.Date(2026, 3, 4, 23, 59, 59, 500_000_000, time.Local)
	s := &staged{pods: 1, wall: map[string]time.Duration{"RunPodSandbox": time.Second}, served: map[string]time.Duration{"RunPodSandbox": 950 * time.Millisecond}}
	info := map[string]string{"stages": `{"steps": [{"name": "record", "start": "23:59:59.600000", "duration_ms": 100},
		{"name": "network", "start": "00:00:00.000000", "duration_ms": 800.5}]}`}
	if err := s.read(info, begin, func(string) string { return "RunPodSandbox" }); err != nil {
		t.Fatal(err)
	}
	for after, want := range map[time.Duration]string{
		0: "", 100 * time.Millisecond: "RunPodSandbox: record", 199 * time.Millisecond: "RunPodSandbox: record",
		300 * time.Millisecond: "", time.Second: "RunPodSandbox: network", 2 * time.Second: "",
	} {
		if got := s.under(begin.Add(after)); got != want {
			t.Errorf("%s after the beginning: %q, want %q", after, got, want)
		}
	}
	s.cpu = map[string]profile.Profile{"RunPodSandbox: network": {CPU: 4 * time.Millisecond, Programs: []profile.Share{{Name: "bridge", CPU: time.Millisecond}}}}
	text := s.table().Text()
	for _, want := range []string{"49.5 ms", "800 ms", "80.0 %", "bridge 25.0 %", "between client and server: 95.0 %"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
	if err := s.read(map[string]string{}, begin, func(string) string { return "" }); err == nil {
		t.Error("no error without stages")
	}
}

// TestFollow has a log grow from a half to the whole in about a tenth of a second.
func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	write := func(text string) {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Error(err)
		}
	}
	write(strings.Repeat("x", 50))
	begin := time.Now()
	later := time.AfterFunc(100*time.Millisecond, func() { write(strings.Repeat("x", 46) + "END\n") })
	defer later.Stop()
	rate, err := follow(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if least := logBytes / (1 << 20) / 2 / time.Since(begin).Seconds(); rate < least || math.IsInf(rate, 0) {
		t.Errorf("%f MiB/s, want %f and a little more", rate, least)
	}
	if _, err := follow(t.Context(), path); err == nil {
		t.Error("no error for a log that is there at once")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := follow(ctx, filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("no error for a log that does not come")
	}
}

func TestOptions(t *testing.T) {
	s, err := options([]string{"-rows", "exec,grow", "-grow", "20,10", "-busy"})
	if err != nil || !slices.Equal(s.rows, []string{"exec", "grow"}) || !slices.Equal(s.grow, []int{10, 20}) || !s.busy {
		t.Errorf("%+v, %v", s, err)
	}
	b := &benchmark{setting: setting{rows: []string{"grow", "standing"}, grow: []int{10, 60, 100}, pods: 60}}
	if got := b.counts(); !slices.Equal(got, []int{10, 60, 100}) {
		t.Errorf("pods: %v", got)
	}
	for _, bad := range [][]string{{"-rows", "nothing"}, {"-grow", "x"}, {"-grow", "100000"}, {"-pods", "0"}, {"-n", "0"}, {"more"}} {
		if _, err := options(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
