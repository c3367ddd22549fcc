package kubelet

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// logRotation: kubelet has rotated the log, and no line is lost or doubled.
func logRotation(t *testing.T, s *suite) {
	const last = 4000
	p := s.ready(t, "logs")
	dir := filepath.Join(s.kubelet.dir, "logs", "default_logs-"+nodeName+"_"+p.Metadata.UID, "main")
	var lines []string
	until(t, "the last line is there", func() (err error) {
		if lines, err = logLines(dir); err == nil && (len(lines) == 0 || lines[len(lines)-1] != fmt.Sprintf("line %d", last)) {
			err = fmt.Errorf("%d lines", len(lines))
		}
		return err
	})
	for i, line := range lines {
		if want := fmt.Sprintf("line %d", last-len(lines)+1+i); line != want {
			t.Fatalf("line %d of %d that are kept is %q, want %q", i+1, len(lines), line, want)
		}
	}
	rotated, err := filepath.Glob(filepath.Join(dir, "0.log.*"))
	if err != nil || len(rotated) == 0 {
		t.Errorf("rotated logs: %v, %v", rotated, err)
	}
	t.Logf("%d lines in %d rotated files and the log", len(lines), len(rotated))
}

// logLines reads all of a container's log that kubelet keeps, oldest first.
func logLines(dir string) (lines []string, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "0.log.*"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files) // by time
	for _, path := range append(files, filepath.Join(dir, "0.log")) {
		if strings.HasSuffix(path, ".tmp") || slices.Contains(files, path+".gz") {
			continue // being compressed: one whole copy counts
		}
		data, err := readLog(path)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(data) {
			f := strings.SplitN(strings.TrimSpace(line), " ", 4)
			lines = append(lines, f[len(f)-1])
		}
	}
	return lines, nil
}

func readLog(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return "", err
		}
	}
	data, err := io.ReadAll(r)
	return string(data), err
}
