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
	got, err := parse(strings.NewReader(text), "github.com/berthd/berth/")
	if err != nil {
		t.Fatal(err)
	}
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
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
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
