package keeper

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

// parseLog undoes the format: what the container wrote, and the records.
func parseLog(t *testing.T, data []byte) (content string, records []string) {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(f) != 4 || f[1] != "stdout" || !strings.HasSuffix(line, "\n") {
			t.Fatalf("not a record: %.100q", line)
		}
		if _, err := time.Parse(time.RFC3339Nano, f[0]); err != nil {
			t.Fatal(err)
		}
		if len(f[3]) > maxLine {
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

func newTestLog(t *testing.T) *logFile {
	t.Helper()
	l, err := newLog(filepath.Join(t.TempDir(), "sub", "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l
}

// However the output is cut into reads, the records are the same and nothing is
// lost.
func TestLineWriter(t *testing.T) {
	tests := []struct {
		name  string
		lines []int // lengths; a negative one does not end
		want  string
	}{
		{"one line", []int{5}, "F5"},
		{"no line end", []int{-5}, "P5"},
		{"empty lines", []int{0, 0, 3, 0}, "F0 F0 F3 F0"},
		{"as long as a line may be", []int{maxLine}, "F16384"},
		{"one more", []int{maxLine + 1}, "P16384 F1"},
		{"twice as long", []int{2 * maxLine, 1}, "P16384 F16384 F1"},
		{"as long, no end", []int{-maxLine}, "P16384"},
		{"long, no end", []int{7, -2*maxLine - 9}, "F7 P16384 P16384 P9"},
		{"a mix", []int{1, maxLine - 1, maxLine + 1, 100, 2*maxLine + 1}, "F1 F16383 P16384 F1 F100 P16384 P16384 F1"},
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
			for seed := range uint64(200) {
				r := rand.New(rand.NewPCG(seed, 1))
				l := newTestLog(t)
				w := newLineWriter(l, "stdout", newBufferPool(1))
				for rest := in.Bytes(); len(rest) > 0; {
					n := min(len(rest), 1+r.IntN([]int{1, 10, 4096, maxLine, maxLine + 1, readSize}[r.IntN(6)]))
					if n == 1 && len(rest) > 100 {
						n = min(len(rest), maxLine) // else it takes too long
					}
					w.write(rest[:n])
					rest = rest[n:]
				}
				w.end()
				data, err := os.ReadFile(l.path)
				if err != nil {
					t.Fatal(err)
				}
				content, records := parseLog(t, data)
				if content != in.String() {
					t.Fatalf("seed %d: content differs", seed)
				}
				if got := strings.Join(records, " "); got != tt.want {
					t.Fatalf("seed %d: records %s, want %s", seed, got, tt.want)
				}
			}
		})
	}
}

// A write that fails leaves nothing that damages what comes after it.
func TestLogTorn(t *testing.T) {
	l := newTestLog(t)
	l.write([]byte("2020-01-01T00:00:00Z stdout F one\n"))
	good := l.f
	var err error
	if l.f, err = os.Open(os.DevNull); err != nil { // read-only: every write fails
		t.Fatal(err)
	}
	l.write([]byte("2020-01-01T00:00:00Z stdout F lost\n"))
	if l.dropped == 0 || l.torn {
		t.Errorf("dropped %d, torn %t", l.dropped, l.torn)
	}
	l.f.Close()
	l.f = good
	if _, err := l.f.WriteString("2020-01-01T00:00:00Z stdo"); err != nil {
		t.Fatal(err)
	}
	l.torn = true
	l.write([]byte("2020-01-01T00:00:00Z stdout F two\n"))
	data, err := os.ReadFile(l.path)
	if err != nil || !strings.HasSuffix(string(data), "stdo\n2020-01-01T00:00:00Z stdout F two\n") {
		t.Errorf("%q, %v", data, err)
	}
	if l.dropped != 0 || l.torn {
		t.Errorf("dropped %d, torn %t", l.dropped, l.torn)
	}
}

// A log's folder may be mounted into a container.
func TestOpenLogHostile(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	if err := os.Symlink(target, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "dir", "none/log"} {
		l := newTestLog(t)
		l.path = filepath.Join(dir, name)
		if err := l.reopen(); err == nil {
			t.Errorf("%s: opened", name)
		}
		if l.f == nil {
			t.Errorf("%s: the old file is gone", name)
		}
	}
	if _, err := os.Lstat(target); !os.IsNotExist(err) {
		t.Error("the link was followed")
	}
	l := newTestLog(t)
	l.path = os.DevNull
	if err := l.reopen(); err == nil {
		t.Error("a device was opened")
	}
}

func BenchmarkLineWriter(b *testing.B) {
	l, err := newLog(filepath.Join(b.TempDir(), "log"))
	if err != nil {
		b.Fatal(err)
	}
	defer l.close()
	w := newLineWriter(l, "stdout", newPools().lines)
	p := bytes.Repeat([]byte(strings.Repeat("x", 100)+"\n"), readSize/101)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		w.write(p)
		if err := l.f.Truncate(0); err != nil {
			b.Fatal(err)
		}
	}
}
