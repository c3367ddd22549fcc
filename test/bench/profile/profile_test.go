package profile

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestParse reads four samples, as perf script prints them.
func TestParse(t *testing.T) {
	const text = `
berthd 2512597 
	          4a1b20 github.com/klauspost/compress/flate.(*decompressor).huffmanBytesReader (/b/berthd)
	          4a1c00 github.com/berthd/berth/imageservice.(*decompressor).Read (/b/berthd)
	          4a1c01 github.com/berthd/berth/imageservice.readAhead.func1 (/b/berthd)

my prog 9 2512597 
	ffffffff81a copy_page_from_iter (vmlinux)
	ffffffff81b ext4_file_write_iter ([kernel.kallsyms])
	ffffffff81c ksys_write ([kernel.kallsyms])
	ffffffff81d __x64_sys_write ([kernel.kallsyms])
	          4a1b20 internal/runtime/syscall.Syscall6 (/b/berthd)
	          4a1c01 github.com/berthd/berth/snapshot.write.func2.1 (/b/berthd)

berthd 1000000 
	          4a1c10 runtime.scanobject (/b/berthd)
	          4a1c20 runtime.gcBgMarkWorker (/b/berthd)

berthd 1000000 
	ffffffff81c clear_page_erms ([kernel.kallsyms])
	ffffffff81d asm_exc_page_fault ([kernel.kallsyms])
	          4a1c10 main.main (/b/berthd)
`
	sum := newTally("github.com/berthd/berth/")
	if err := parse(strings.NewReader(text), sum.add); err != nil {
		t.Fatal(err)
	}
	got := sum.profile()
	want := Profile{
		CPU: 7025194,
		Work: []Share{
			{"inflate", 2512597}, {"kernel: write", 2512597},
			{"garbage collection", 1000000}, {"kernel: page faults", 1000000},
		},
		Code: []Share{
			{"imageservice.(*decompressor).Read", 2512597}, {"snapshot.write", 2512597},
			{"(garbage collection)", 1000000}, {"(no function of its own)", 1000000},
		},
		Programs: []Share{{"berthd", 4512597}, {"my prog 9", 2512597}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestParseTimes reads samples of a recording of the whole machine.
func TestParseTimes(t *testing.T) {
	const text = "my prog 9: 1764409000.123456:    2512597 \n\tffffffff81a x ([kernel.kallsyms])\n\nberthd 1764409001.000001002:    7 \n"
	var got []sample
	if err := parse(strings.NewReader(text), func(s sample) { got = append(got, s) }); err != nil {
		t.Fatal(err)
	}
	want := []sample{
		{"my prog 9:", time.Unix(1764409000, 123456000), 2512597, []string{"x"}},
		{"berthd", time.Unix(1764409001, 1002), 7, nil},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestSort takes samples of the machine while this process works, first in one class and then in another.
func TestSort(t *testing.T) {
	r, err := StartMachine(t.Context())
	if err == ErrNoPerf {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	var turn time.Time
	for i := range 2 {
		for before := cpu(t); cpu(t)-before < 200*time.Millisecond; {
			work()
		}
		if i == 0 {
			turn = time.Now()
		}
	}
	all, err := r.Sort(t.Context(), "github.com/berthd/berth/", func(at time.Time) string {
		if at.Before(turn) {
			return "first"
		}
		return "second"
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, class := range []string{"first", "second"} {
		if p := all[class]; p.CPU < 100*time.Millisecond || len(p.Programs) == 0 {
			t.Errorf("%s: %+v, want some CPU", class, p)
		}
	}
}

// TestRecord takes samples of this process while it works.
func TestRecord(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	r, err := Start(t.Context(), pid())
	if err == ErrNoPerf {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	before := cpu(t)
	for cpu(t)-before < 200*time.Millisecond {
		work()
	}
	p, err := r.Stop(t.Context(), "github.com/berthd/berth/test/bench/profile.")
	if err != nil {
		t.Fatal(err)
	}
	var sum time.Duration
	for _, share := range p.Work {
		sum += share.CPU
	}
	// go test leaves the symbols out of its program, so the kinds are not known.
	if p.CPU <= 0 || sum != p.CPU {
		t.Errorf("%+v, want some CPU, and kinds that add up to it", p)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
