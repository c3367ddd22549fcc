package logs

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/berthd/berth/test/images/chatter/line"
)

// A sum is what was found in logs.
type sum struct {
	lines int
	bytes int64
}

// check reads all logs.
func (s *suite) check(t *testing.T) (all sum) {
	t.Helper()
	for _, k := range s.talkers {
		r := &reader{t: t, lines: s.lines}
		r.next = map[string]int{"stdout": r.after("stdout", -1), "stderr": r.after("stderr", -1)}
		r.part = map[string][]byte{}
		files := append(slices.Clone(k.rotated), k.log)
		if have, _ := filepath.Glob(k.log + "*"); len(have) != len(files) {
			t.Errorf("%s: %d files, and %d are known: %v", k.log, len(have), len(files), have)
		}
		for _, f := range files {
			if !r.read(f) {
				break
			}
		}
		if !t.Failed() && (r.next["stdout"] < s.lines || r.next["stderr"] < s.lines || len(r.part["stdout"])+len(r.part["stderr"]) > 0) {
			t.Errorf("%s: lines %d of stdout and %d of stderr are missing, of %d", k.log, r.next["stdout"], r.next["stderr"], s.lines)
		}
		all.lines, all.bytes = all.lines+r.found, all.bytes+r.bytes
	}
	if !t.Failed() && all.lines != len(s.talkers)*s.lines {
		t.Errorf("%d lines", all.lines)
	}
	return all
}

// A reader reads a container's logs, one after the other.
type reader struct {
	t     *testing.T
	lines int // that were said
	next  map[string]int
	part  map[string][]byte // of a line that is not complete yet
	sum   []byte
	found int
	bytes int64
}

// after is the line that comes after n on a stream.
func (r *reader) after(stream string, n int) int {
	for n++; n < r.lines && line.OnStderr(n) != (stream == "stderr"); n++ {
	}
	return n
}

// read reads one file, and says whether all was as it should be.
func (r *reader) read(path string) bool {
	r.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		r.t.Error(err)
		return false
	}
	r.bytes += int64(len(data))
	for n := 1; len(data) > 0; n++ {
		record, rest, whole := bytes.Cut(data, []byte{'\n'})
		data = rest
		if !whole || !r.record(record) {
			r.t.Errorf("%s: record %d (a whole one: %v) is not what comes next, line %d of stdout or %d of stderr: %.200q", path, n, whole, r.next["stdout"], r.next["stderr"], record)
			return false
		}
	}
	return true
}

// record takes one record, and says whether it is what comes next.
func (r *reader) record(p []byte) bool {
	f := bytes.SplitN(p, []byte{' '}, 4)
	if len(f) != 4 {
		return false
	}
	stream, tag := string(f[1]), string(f[2])
	n, known := r.next[stream]
	if _, err := time.Parse(time.RFC3339Nano, string(f[0])); err != nil || !known || n >= r.lines || tag != "P" && tag != "F" {
		return false
	}
	r.part[stream] = append(r.part[stream], f[3]...)
	r.sum = line.Append(r.sum[:0], n)
	if tag == "P" {
		return bytes.HasPrefix(r.sum, r.part[stream])
	}
	if !bytes.Equal(r.sum, r.part[stream]) {
		return false
	}
	r.part[stream] = r.part[stream][:0]
	r.next[stream] = r.after(stream, n)
	r.found++
	return true
}
