package logfile

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// parse undoes the format: what a stream said, and the records.
func parse(t testing.TB, data []byte, stream string) (content string, records []string) {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(f) != 4 || !strings.HasSuffix(line, "\n") {
			t.Fatalf("not a record: %.100q", line)
		}
		if f[1] != stream {
			continue
		}
		if _, err := time.Parse(time.RFC3339Nano, f[0]); err != nil {
			t.Fatal(err)
		}
		if len(f[3]) > MaxLine {
			t.Fatalf("%d bytes in a line", len(f[3]))
		}
		b.WriteString(f[3])
		if f[2] == "F" {
			b.WriteByte('\n')
		}
		records = append(records, f[2]+fmt.Sprint(len(f[3])))
	}
	return b.String(), records
}

// A rig is a log with pipes to it.
type rig struct {
	t    testing.TB
	o    Options
	l    *Log
	w    [2]*os.File
	ends chan struct{}
}

func newRig(t testing.TB) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t: t, o: Options{Path: filepath.Join(dir, "sub", "log"), Bundle: dir}, ends: make(chan struct{})}
	return r
}

func (r *rig) open() *rig {
	r.t.Helper()
	r.openLog()
	r.start()
	return r
}

func (r *rig) openLog() {
	r.t.Helper()
	var err error
	if r.l, err = Open(r.o, NewPools()); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(r.l.Close)
}

func (r *rig) start() {
	r.t.Helper()
	for i := range r.w {
		var err error
		var out *os.File
		if out, r.w[i], err = os.Pipe(); err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { out.Close(); r.w[i].Close() })
		r.l.Start(i, Source{File: out, Ended: r.ends})
	}
}

func (r *rig) say(i int, text string) {
	r.t.Helper()
	if _, err := r.w[i].WriteString(text); err != nil {
		r.t.Fatal(err)
	}
}

// end ends the streams and waits for the log.
func (r *rig) end() {
	for _, w := range r.w {
		w.Close()
	}
	r.l.Wait(10 * time.Second)
}

func (r *rig) read(paths ...string) []byte {
	r.t.Helper()
	if len(paths) == 0 {
		paths = []string{r.o.Path}
	}
	var all []byte
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			r.t.Fatal(err)
		}
		all = append(all, data...)
	}
	return all
}

// However the output is cut into reads, the records are the same and nothing is
// lost.
func TestLines(t *testing.T) {
	tests := []struct {
		name  string
		lines []int // lengths; a negative one does not end
		want  string
	}{
		{"one line", []int{5}, "F5"},
		{"no line end", []int{-5}, "P5"},
		{"empty lines", []int{0, 0, 3, 0}, "F0 F0 F3 F0"},
		{"as long as a line may be", []int{MaxLine}, "F16384"},
		{"one more", []int{MaxLine + 1}, "P16384 F1"},
		{"twice as long", []int{2 * MaxLine, 1}, "P16384 F16384 F1"},
		{"as long, no end", []int{-MaxLine}, "P16384"},
		{"long, no end", []int{7, -2*MaxLine - 9}, "F7 P16384 P16384 P9"},
		{"a mix", []int{1, MaxLine - 1, MaxLine + 1, 100, 2*MaxLine + 1}, "F1 F16383 P16384 F1 F100 P16384 P16384 F1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var in bytes.Buffer
			for i, n := range tt.lines {
				in.WriteString(strings.Repeat(string(rune('a'+i)), max(n, -n)))
				if n >= 0 {
					in.WriteByte('\n')
				}
			}
			for seed := range uint64(50) {
				rnd := rand.New(rand.NewPCG(seed, 1))
				r := newRig(t).open()
				for rest := in.Bytes(); len(rest) > 0; {
					n := min(len(rest), 1+rnd.IntN([]int{1, 10, 4096, MaxLine, MaxLine + 1, pipeSize}[rnd.IntN(6)]))
					if n == 1 && len(rest) > 100 {
						n = min(len(rest), MaxLine) // else it takes too long
					}
					r.say(0, string(rest[:n]))
					rest = rest[n:]
				}
				r.end()
				content, records := parse(t, r.read(), "stdout")
				if content != in.String() {
					t.Fatalf("seed %d: content differs", seed)
				}
				if got := strings.Join(records, " "); got != tt.want {
					t.Fatalf("seed %d: records %s, want %s", seed, got, tt.want)
				}
				if n := r.l.streams[0].spool.end(); n != 0 {
					t.Fatalf("%d bytes stay in the spool", n)
				}
			}
		})
	}
}

// A log's folder may be mounted into a container.
func TestOpenHostile(t *testing.T) {
	r := newRig(t)
	r.openLog()
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	if err := os.Symlink(target, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "link"), filepath.Join(dir, "dir"), filepath.Join(dir, "none/log"), os.DevNull} {
		r.l.path = path
		if err := r.l.Reopen(t.Context()); err == nil {
			t.Errorf("%s: opened", path)
		}
	}
	if _, err := os.Lstat(target); !os.IsNotExist(err) {
		t.Error("the link was followed")
	}
	r.start()
	r.say(0, "on\n")
	r.end()
	if content, _ := parse(t, r.read(), "stdout"); content != "on\n" {
		t.Errorf("the old file has %q", content)
	}
}
