package shim_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A shim that is killed while containers say more than it can log leaves no line out, none
// twice and none in halves, of pipes and of a terminal, and its successor goes on in the file
// that the log was rotated to.
func TestShimKilledUnderLoad(t *testing.T) {
	const script = "i=0; while [ ! -e /test/stop ]; do i=$((i+1)); echo line $i; echo line $i >&2; done; echo end $i"
	h := newHost(t)
	pipes, terminal := h.box(script), h.box(script)
	terminal.spec.Process.Terminal, terminal.req.Terminal = true, true
	boxes := []*box{pipes, terminal}
	dirs, logs := []string{pipes.share(), terminal.share()}, make([][]string, 2)
	for _, b := range boxes {
		b.start()
	}
	for i := range 6 {
		h.killShim()
		for n, b := range boxes {
			if i%3 == n {
				old := fmt.Sprintf("%s.%d", b.req.LogPath, i)
				if err := os.Rename(b.req.LogPath, old); err != nil {
					t.Fatal(err)
				}
				logs[n] = append(logs[n], old)
			}
			if i%3 == 2-n { // for the first with two kills between the halves of a rotation
				if err := h.ReopenLog(t.Context(), b.id); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for n, b := range boxes {
		if err := os.WriteFile(filepath.Join(dirs[n], "stop"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if exit := b.wait(); exit.Code != 0 {
			t.Errorf("exit = %+v", exit)
		}
	}
	for n, b := range boxes {
		var records []record
		for _, f := range append(logs[n], b.req.LogPath) {
			records = append(records, readLog(t, f)...)
		}
		wantPairs(t, records, n == 1)
	}
}

// wantPairs checks what the script of TestShimKilledUnderLoad has said: the same numbered lines
// on both streams, or each twice on a terminal.
func wantPairs(t *testing.T, records []record, terminal bool) {
	t.Helper()
	said, last := map[string]int{}, 0
	for _, r := range records {
		text := r.text
		if terminal {
			text = strings.TrimSuffix(text, "\r")
		}
		if end, ok := strings.CutPrefix(text, "end "); ok {
			last, _ = strconv.Atoi(end)
			continue
		}
		n := said[r.stream]
		want := n + 1
		if terminal {
			want = n/2 + 1
		}
		if text != "line "+strconv.Itoa(want) || r.tag != "F" {
			t.Fatalf("record %d of %s is %+v, not line %d", n, r.stream, r, want)
		}
		said[r.stream]++
	}
	if terminal && said["stdout"] != 2*last || !terminal && (said["stdout"] != last || said["stderr"] != last) || last == 0 {
		t.Errorf("%v lines, and %d were said", said, last)
	}
}

var noted = regexp.MustCompile(`^berth: (\d+) lines \((\d+) bytes\) of this stream are missing here: more than log.rate_limit allows$`)

// With a rate limit the container is not held up, and what its log has not is counted there. A
// shim that takes over has the same limit.
func TestRateLimit(t *testing.T) {
	const lines, line = 50_000, "0123456789012345678\n"
	h := newHost(t)
	h.options.LogRate, h.options.LogBurst = 10_000, 50_000
	h.reopen()
	b := h.box(fmt.Sprintf("yes %s | head -n %d; read _ < /test/go; yes %[1]s | head -n %[2]d", strings.TrimSpace(line), lines))
	dir := b.share()
	fifo(t, dir, "go")
	b.start()
	h.killShim()
	writeFifo(t, dir, "go")
	b.wait()
	logged, missing, bytes, notes := 0, 0, 0, 0
	for _, r := range b.log() {
		if m := noted.FindStringSubmatch(r.text); m != nil {
			n, _ := strconv.Atoi(m[1])
			size, _ := strconv.Atoi(m[2])
			missing, bytes, notes = missing+n, bytes+size, notes+1
			continue
		}
		if r.text+"\n" != line || r.tag != "F" {
			t.Fatalf("record %+v", r)
		}
		logged++
	}
	if logged+missing != 2*lines || bytes != missing*len(line) || logged == 0 || logged > lines/2 || notes == 0 {
		t.Errorf("%d lines logged, %d lines and %d bytes counted in %d records, of %d lines", logged, missing, bytes, notes, 2*lines)
	}
}

// What waits for a log whose disk is full waits for its successor when the shim is killed.
func TestShimKilledWithFullLog(t *testing.T) {
	const lines = 5000
	h := newHost(t)
	b := h.box(fmt.Sprintf("seq 1 %d | sed 's/^/line /'; read _ < /test/go", lines))
	dir := b.share()
	fifo(t, dir, "go")
	logs := filepath.Dir(b.req.LogPath)
	if err := os.MkdirAll(logs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("logs", logs, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(logs, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	b.start()
	eventually(t, "the log's disk is not full", func() bool {
		var st unix.Statfs_t
		return unix.Statfs(logs, &st) == nil && st.Bavail == 0
	})
	h.killShim()
	if err := unix.Mount("", logs, "", unix.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	writeFifo(t, dir, "go")
	b.wait()
	b.wantCount(lines)
}
