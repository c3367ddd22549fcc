package shim_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/shim"
)

func TestLongLines(t *testing.T) {
	const max = 16 << 10
	h := newHost(t)
	b := h.box(fmt.Sprintf("yes x | tr -d '\\n' | head -c %d; echo; yes y | tr -d '\\n' | head -c %d; echo; echo z", max, 2*max+5))
	b.run()
	x, y := strings.Repeat("x", max), strings.Repeat("y", max)
	want := []record{{"stdout", "F", x}, {"stdout", "P", y}, {"stdout", "P", y}, {"stdout", "F", "yyyyy"}, {"stdout", "F", "z"}}
	if got := b.log(); !slices.Equal(got, want) {
		t.Errorf("%d records, want %d", len(got), len(want))
		for _, r := range got {
			t.Logf("%s %s %d bytes %.10s", r.stream, r.tag, len(r.text), r.text)
		}
	}
}

func TestTwoStreams(t *testing.T) {
	h := newHost(t)
	b := h.box("(seq 1 20000 | sed s/^/out/) & (seq 1 20000 | sed s/^/err/ >&2) & wait")
	b.run()
	next := map[string]int{"stdout": 1, "stderr": 1}
	for _, r := range b.log() {
		if want := fmt.Sprintf("%s%d", r.stream[3:], next[r.stream]); r.tag != "F" || r.text != want {
			t.Fatalf("%s %s %q, want %q", r.stream, r.tag, r.text, want)
		}
		next[r.stream]++
	}
	if next["stdout"] != 20001 || next["stderr"] != 20001 {
		t.Errorf("lines: %v", next)
	}
}

// All of the output is logged when the exit is known, also when the shim learns of
// both at once.
func TestLogBeforeExit(t *testing.T) {
	h := newHost(t)
	for range 5 {
		b := h.box("read _ < /test/go; yes | head -c 60000")
		dir := b.share()
		fifo(t, dir, "go")
		pid := b.start()
		shims := h.shimPids()
		if err := unix.Kill(shims[0].pid, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		writeFifo(t, dir, "go")
		eventually(t, "running", func() bool {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err == nil && strings.Contains(string(data), ") Z ")
		})
		if err := unix.Kill(shims[0].pid, unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		unix.Close(shims[0].fd)
		b.wait()
		if n := len(b.log()); n != 30000 {
			t.Errorf("%d lines, want 30000", n)
		}
	}
}

func TestReopenLog(t *testing.T) {
	h := newHost(t)
	b := h.box("i=0; while [ ! -e /test/stop ]; do i=$((i+1)); echo $i; done; printf end")
	dir := b.share()
	b.start()
	var logs []string
	for i := range 20 {
		old := fmt.Sprintf("%s.%d", b.req.LogPath, i)
		if err := os.Rename(b.req.LogPath, old); err != nil {
			t.Fatal(err)
		}
		logs = append(logs, old)
		if err := h.ReopenLog(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "stop"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.wait()
	n := 0
	for _, path := range append(logs, b.req.LogPath) {
		for _, r := range readLog(t, path) {
			if n++; r.text != fmt.Sprint(n) && r != (record{"stdout", "P", "end"}) {
				t.Fatalf("%s: line %d is %q", path, n, r.text)
			}
		}
	}
	if last := b.log(); len(last) == 0 || last[len(last)-1] != (record{"stdout", "P", "end"}) {
		t.Errorf("the last file ends with %q", last)
	}
	if st, err := os.Stat(b.req.LogPath); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("log: %v %v", st.Mode(), err)
	}

	if err := os.Remove(b.req.LogPath); err != nil {
		t.Fatal(err)
	}
	if err := h.ReopenLog(t.Context(), b.id); !errors.Is(err, shim.ErrNotRunning) {
		t.Errorf("reopen of an exited container = %v", err)
	}
	if _, err := os.Lstat(b.req.LogPath); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a failed reopen made a file: %v", err)
	}
	if err := h.ReopenLog(t.Context(), "nobody"); !errors.Is(err, shim.ErrNotFound) {
		t.Errorf("reopen of nobody = %v", err)
	}
}

// A full disk stops neither the container nor the log for good.
func TestLogFullDisk(t *testing.T) {
	h := newHost(t)
	dir := filepath.Join(h.state, "small")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	b := h.box("seq 1 100000; echo x > /test/full; read _ < /test/go; echo after")
	share := b.share()
	b.req.LogPath = filepath.Join(dir, "log")
	fifo(t, share, "full")
	fifo(t, share, "go")
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	b.start()
	readFifo(t, share, "full")
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
	writeFifo(t, share, "go")
	if exit := b.wait(); exit.Code != 0 {
		t.Errorf("exit = %+v", exit)
	}
	data, err := os.ReadFile(b.req.LogPath)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	if last := lines[len(lines)-1]; !strings.HasSuffix(last, "stdout F after") {
		t.Errorf("last line %q", last)
	}
	if err := h.Delete(t.Context(), b.id); err != nil { // it has the file system busy
		t.Error(err)
	}
}
