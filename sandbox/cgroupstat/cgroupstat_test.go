package cgroupstat

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// The files of a container with 64 MiB of memory, 32 MiB of swap and a fifth of a CPU.
var filesV2 = map[string]string{
	"cpu.stat":   "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\nnr_periods 20\nnr_throttled 3\nthrottled_usec 70\n",
	"cpu.max":    "20000 100000\n",
	"cpu.weight": "100\n",
	"cpu.pressure": "some avg10=1.50 avg60=0.25 avg300=0.05 total=1234\n" +
		"full avg10=0.50 avg60=0.10 avg300=0.01 total=234\n",
	"memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=4\n",
	"io.pressure":     "some avg10=0.00 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=6\n",
	"memory.current":  "10000000\n",
	"memory.max":      "67108864\n",
	"memory.min":      "4096\n",
	"memory.peak":     "20000000\n",
	"memory.events":   "low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\n",
	"memory.stat": "anon 4000000\nfile 3000000\nkernel 500000\nfile_mapped 100000\ninactive_anon 1\nactive_anon 2\n" +
		"inactive_file 2500000\nactive_file 400000\npgfault 700\npgmajfault 30\n",
	"memory.swap.current": "1000000\n",
	"memory.swap.max":     "33554432\n",
	"pids.current":        "5\n",
	"pids.max":            "100\n",
	"io.stat":             "8:0 rbytes=100 wbytes=200 rios=3 wios=4 dbytes=5 dios=6\n253:16 rbytes=7 wbytes=8 rios=9 wios=10\n",
	"hugetlb.2MB.current": "4194304\n", "hugetlb.2MB.rsvd.current": "1\n",
}

var wantV2 = Stats{
	CPU: CPU{Usage: 1_500_000_000, User: 1_000_000_000, System: 500_000_000, Periods: 20, ThrottledPeriods: 3,
		ThrottledTime: 70_000, Shares: 1024, Period: 100000, Quota: 20000},
	Memory: Memory{Usage: 10000000, Limit: 67108864, WorkingSet: 7500000, RSS: 4000000, Faults: 700, MajorFaults: 30,
		LocalFaults: 700, LocalMajorFaults: 30, Cache: 3000000, MappedFile: 100000, Kernel: 500000,
		ActiveFile: 400000, InactiveFile: 2500000, ActiveAnon: 2, InactiveAnon: 1, Peak: 20000000, LimitHits: 9, OOMKills: 1, Reservation: 4096},
	Swap: Swap{Known: true, Usage: 1000000, Limited: true, Limit: 33554432},
	Pressure: Pressure{
		CPU:    &Stall{Some: StallTime{1.5, 0.25, 0.05, 1234000}, Full: StallTime{0.5, 0.1, 0.01, 234000}},
		Memory: &Stall{Some: StallTime{Total: 5000}, Full: StallTime{Total: 4000}},
		IO:     &Stall{Some: StallTime{Total: 7000}, Full: StallTime{Total: 6000}},
	},
	Tasks: 5, TasksMax: 100,
	IO:        []DeviceIO{{8, 0, 100, 200, 3, 4}, {253, 16, 7, 8, 9, 10}},
	HugePages: []HugePages{{Size: "2MB", Usage: 4194304}},
}

// The same container on cgroup v1, by controller.
var filesV1 = map[string]string{
	"cpuacct/cpuacct.usage": "1500000000\n",
	"cpuacct/cpuacct.stat":  "user 100\nsystem 50\n",
	"cpu/cpu.stat":          "nr_periods 20\nnr_throttled 3\nthrottled_time 70000\n",
	"cpu/cpu.shares":        "1024\n", "cpu/cpu.cfs_period_us": "100000\n", "cpu/cpu.cfs_quota_us": "20000\n",
	"memory/memory.usage_in_bytes": "10000000\n", "memory/memory.limit_in_bytes": "67108864\n",
	"memory/memory.memsw.limit_in_bytes": "100663296\n", "memory/memory.soft_limit_in_bytes": "4096\n",
	"memory/memory.max_usage_in_bytes": "20000000\n", "memory/memory.failcnt": "9\n", "memory/memory.kmem.usage_in_bytes": "500000\n",
	"memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
	"memory/memory.stat": "cache 1\nrss 1\npgfault 600\npgmajfault 20\ntotal_cache 3000000\ntotal_rss 4000000\ntotal_mapped_file 100000\n" +
		"total_swap 1000000\ntotal_pgfault 700\ntotal_pgmajfault 30\ntotal_inactive_anon 1\ntotal_active_anon 2\n" +
		"total_inactive_file 2500000\ntotal_active_file 400000\n",
	"pids/pids.current": "5\n", "pids/pids.max": "100\n",
	"blkio/blkio.throttle.io_service_bytes_recursive": "8:0 Read 100\n8:0 Write 200\n8:0 Total 300\n253:16 Read 7\n253:16 Write 8\nTotal 315\n",
	"blkio/blkio.throttle.io_serviced_recursive":      "8:0 Read 3\n8:0 Write 4\n253:16 Read 9\n253:16 Write 10\nTotal 26\n",
	"hugetlb/hugetlb.2MB.usage_in_bytes":              "4194304\n", "hugetlb/hugetlb.2MB.max_usage_in_bytes": "8388608\n",
}

const cgroupPath = "/kubepods/pod1/c1"

// tree writes files and returns a Tree over them, by way of a mountinfo.
func tree(t *testing.T, files map[string]string, v2 bool) *Tree {
	t.Helper()
	root := t.TempDir()
	mounts := "22 21 0:20 / /proc rw - proc proc rw\n"
	seen := map[string]bool{}
	for name, text := range files {
		mount := root
		if !v2 {
			controller, file, _ := strings.Cut(name, "/")
			mount, name = filepath.Join(root, controller), file
			if !seen[controller] {
				seen[controller] = true
				mounts += fmt.Sprintf("30 24 0:27 / %s rw,nosuid shared:9 - cgroup cgroup rw,%s\n", mount, controller)
			}
		}
		file := filepath.Join(mount, cgroupPath, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if v2 {
		mounts += fmt.Sprintf("30 24 0:27 / %s rw - cgroup2 cgroup2 rw,nsdelegate\n", root)
	}
	return parseMounts(mounts)
}

func TestReadAll(t *testing.T) {
	wantV1 := wantV2
	wantV1.Pressure = Pressure{} // v1 has none
	wantV1.Memory.LocalFaults, wantV1.Memory.LocalMajorFaults = 600, 20
	wantV1.HugePages = []HugePages{{Size: "2MB", Usage: 4194304, Peak: 8388608}}
	for _, c := range []struct {
		name  string
		files map[string]string
		v2    bool
		want  Stats
	}{{"v1", filesV1, false, wantV1}, {"v2", filesV2, true, wantV2}} {
		t.Run(c.name, func(t *testing.T) {
			tr := tree(t, c.files, c.v2)
			got, err := tr.ReadAll(cgroupPath)
			if err != nil {
				t.Fatal(err)
			}
			if time.Since(got.Time) > time.Minute {
				t.Errorf("read at %v", got.Time)
			}
			got.Time = time.Time{}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
			if _, err := tr.Read(cgroupPath + "x"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a cgroup that is not there: %v", err)
			}
			if _, err := tr.CountProcesses("/none"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("processes of a cgroup that is not there: %v", err)
			}
		})
	}
}

// Nothing that is left over may wrap round, and no limit leaves nothing to tell.
func TestAvailable(t *testing.T) {
	with := func(files map[string]string, set map[string]string) map[string]string {
		out := map[string]string{}
		for k, v := range files {
			out[k] = v
		}
		for k, v := range set {
			if out[k] = v; v == "" {
				delete(out, k)
			}
		}
		return out
	}
	const unlimited = "9223372036854771712\n"
	for _, c := range []struct {
		name         string
		files        map[string]string
		v2           bool
		memory, swap uint64
		memoryOK     bool
		swapOK       bool
	}{
		{"v1 limited", filesV1, false, 67108864 - 7500000, 33554432 - 1000000, true, true},
		{"v2 limited", filesV2, true, 67108864 - 7500000, 33554432 - 1000000, true, true},
		{"v1 unlimited", with(filesV1, map[string]string{"memory/memory.limit_in_bytes": unlimited,
			"memory/memory.memsw.limit_in_bytes": unlimited}), false, 0, 0, false, false},
		{"v2 unlimited", with(filesV2, map[string]string{"memory.max": "max\n", "memory.swap.max": "max\n"}), true, 0, 0, false, false},
		{"v1 over", with(filesV1, map[string]string{"memory/memory.limit_in_bytes": "4096\n",
			"memory/memory.memsw.limit_in_bytes": "4096\n"}), false, 0, 0, true, true},
		{"v2 over", with(filesV2, map[string]string{"memory.max": "4096\n", "memory.swap.max": "0\n"}), true, 0, 0, true, true},
		{"v1 no swap accounting", with(filesV1, map[string]string{"memory/memory.memsw.limit_in_bytes": ""}), false, 67108864 - 7500000, 0, true, false},
		{"v2 no swap accounting", with(filesV2, map[string]string{"memory.swap.current": ""}), true, 67108864 - 7500000, 0, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := tree(t, c.files, c.v2).Read(cgroupPath)
			if err != nil {
				t.Fatal(err)
			}
			if n, ok := got.Memory.Available(); ok != c.memoryOK || ok && n != c.memory {
				t.Errorf("memory: %d, %v", n, ok)
			}
			if n, ok := got.Swap.Available(); ok != c.swapOK || ok && n != c.swap {
				t.Errorf("swap: %d, %v", n, ok)
			}
		})
	}
	small := with(filesV2, map[string]string{"memory.current": "100\n"}) // less than its inactive file pages
	got, err := tree(t, small, true).Read(cgroupPath)
	if err != nil || got.Memory.WorkingSet != 0 {
		t.Errorf("working set: %d, %v", got.Memory.WorkingSet, err)
	}
}

// A file that is no cgroup's does not fill our memory.
func TestSizeCap(t *testing.T) {
	files := map[string]string{"cpu.stat": strings.Repeat("x 1\n", maxFile)}
	if _, err := tree(t, files, true).Read(cgroupPath); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// A process of ours that works in a cgroup of the machine's own.
func TestOnKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	tr, err := Find()
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/berth-cgroupstat-%d", os.Getpid())
	cmd := exec.Command("sh", "-c", "read x; while :; do :; done")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	join(t, tr, path, cmd.Process.Pid)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		leave(t, tr, path)
		if _, err := tr.Read(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after its end: %v", err)
		}
	})
	before, err := tr.ReadAll(path)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(stdin)
	after := before
	for deadline := time.Now().Add(10 * time.Second); after.CPU.Usage <= before.CPU.Usage && time.Now().Before(deadline); {
		if after, err = tr.ReadAll(path); err != nil {
			t.Fatal(err)
		}
	}
	if after.CPU.Usage <= before.CPU.Usage || after.Tasks != 1 {
		t.Errorf("cpu %d then %d, %d tasks", before.CPU.Usage, after.CPU.Usage, after.Tasks)
	}
	if _, err := os.Stat("/proc/pressure/cpu"); err == nil && tr.unified != "" && after.Pressure.CPU == nil {
		t.Error("no pressure, although the kernel tells")
	}
	p, err := tr.Processes(path)
	if err != nil || p.Count != 1 || p.Descriptors < 3 || p.OpenFiles == 0 {
		t.Errorf("processes: %+v, %v", p, err)
	}
}

// hierarchies lists the cgroup's folders, once each.
func hierarchies(tr *Tree, path string) []string {
	seen := map[string]bool{}
	var list []string
	for _, mount := range append([]string{tr.unified}, tr.dirs["cpuacct"], tr.dirs["cpu"], tr.dirs["memory"], tr.dirs["pids"], tr.dirs["blkio"]) {
		if mount != "" && !seen[mount] {
			seen[mount] = true
			list = append(list, filepath.Join(mount, path))
		}
	}
	return list
}

func join(t *testing.T, tr *Tree, path string, pid int) {
	t.Helper()
	for _, dir := range hierarchies(tr, path) {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, pid), 0); err != nil {
			t.Fatal(err)
		}
	}
}

func leave(t testing.TB, tr *Tree, path string) {
	t.Helper()
	for _, dir := range hierarchies(tr, path) {
		for deadline := time.Now().Add(5 * time.Second); ; {
			err := os.Remove(dir)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Error(err)
				break
			}
		}
	}
}

func BenchmarkRead(b *testing.B) {
	tr, err := Find()
	if err != nil {
		b.Fatal(err)
	}
	for name, read := range map[string]func(string) (Stats, error){"Read": tr.Read, "ReadAll": tr.ReadAll} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := read("/"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestShares(t *testing.T) {
	for weight, want := range map[uint64]uint64{1: 2, 59: 521, 100: 1024, 174: 2060, 10000: 262144} {
		if got := shares(weight); got != want {
			t.Errorf("weight %d: %d shares, want %d", weight, got, want)
		}
	}
}
