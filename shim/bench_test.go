package shim_test

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/profiles/seccomp"
)

// sleeper is a container as most are: with the default seccomp profile.
func (h *host) sleeper() *box {
	c := h.box("exec sleep 1000")
	profile, err := seccomp.GetDefaultProfile(c.spec)
	if err != nil {
		h.t.Fatal(err)
	}
	c.spec.Linux.Seccomp = profile
	return c
}

// BenchmarkStart measures create and start of a container, one at a time, and
// beside it, not in the figure, its end and removal.
func BenchmarkStart(b *testing.B) {
	h := newHost(b)
	for b.Loop() {
		c := h.sleeper()
		c.start()
		b.StopTimer()
		if err := h.Delete(b.Context(), c.id); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkStartNewShim is BenchmarkStart where each container gets a new shim: -benchtime 20x.
func BenchmarkStartNewShim(b *testing.B) {
	h := newHost(b)
	h.options.PodsPerProcess = 1
	h.reopen()
	h.sleeper().start()
	eventually(b, "its filter is known", func() bool { return h.SharedFilters() == 1 })
	for b.Loop() {
		h.sleeper().start()
	}
}

// BenchmarkDelete measures the removal of a running container.
func BenchmarkDelete(b *testing.B) {
	h := newHost(b)
	for b.Loop() {
		b.StopTimer()
		c := h.sleeper()
		c.start()
		b.StartTimer()
		if err := h.Delete(b.Context(), c.id); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExecSync measures a command that does nothing.
func BenchmarkExecSync(b *testing.B) {
	h := newHost(b)
	c := h.sleeper()
	c.start()
	req := c.execRequest("")
	req.Process.Args = []string{"/bin/true"}
	for b.Loop() {
		if res, err := h.ExecSync(b.Context(), req); err != nil || res.Code != 0 {
			b.Fatal(res, err)
		}
	}
}

// BenchmarkLog measures how fast a container's output is logged, and what that costs the shim.
func BenchmarkLog(b *testing.B) {
	const size = 256 << 20
	h := newHost(b)
	line := strings.Repeat("0123456789", 10)
	for b.Loop() {
		c := h.box("yes " + line + " | head -c " + strconv.Itoa(size))
		c.run()
		b.StopTimer()
		if err := os.Remove(c.req.LogPath); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.SetBytes(size)
	b.ReportMetric(float64(cpuOf(b, h.shimPids()[0].pid).Milliseconds())/float64(b.N)/(size>>20), "CPU-ms/MB")
}

// cpuOf is what a process has used.
func cpuOf(b *testing.B, pid int) time.Duration {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		b.Fatal(err)
	}
	f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

// BenchmarkMemory reports what a container costs the shim, in KiB of PSS.
func BenchmarkMemory(b *testing.B) {
	const n = 60
	h := newHost(b)
	first := h.sleeper()
	first.start()
	shim := h.shimPids()[0].pid
	one := pss(b, shim)
	for range n - 1 {
		h.sleeper().start()
	}
	time.Sleep(time.Second) // the garbage collector's pace is its own
	all := pss(b, shim)
	b.ReportMetric(float64(all-one)/(n-1), "KiB/container")
	b.ReportMetric(float64(all), "KiB")
	b.ReportMetric(0, "ns/op")
}

func pss(b *testing.B, pid int) int {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "Pss:"); ok {
			n, _ := strconv.Atoi(strings.Fields(v)[0])
			return n
		}
	}
	return 0
}
