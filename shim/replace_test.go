package shim_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthd/berth/shim"
	"golang.org/x/sys/unix"
)

// killShim kills the shim of the host, of which there is one, and waits until there is another
// one in its place.
func (h *host) killShim() {
	h.t.Helper()
	shims := h.shimPids()
	if len(shims) != 1 {
		h.t.Fatalf("%d shims", len(shims))
	}
	h.signal(shims[0], unix.SIGKILL)
	shims[0].waitGone(h.t)
	h.awaitSuccessor(shims[0])
}

// awaitSuccessor waits until another shim serves than p.
func (h *host) awaitSuccessor(p shimProcess) {
	h.t.Helper()
	eventually(h.t, "no successor of the shim", func() bool {
		now := h.shimPids()
		return len(now) == 1 && now[0].pid != p.pid
	})
}

// Containers do not notice that their shim is killed: what they say is logged, they can be
// asked, told and ended, and how they end is known.
func TestShimKilled(t *testing.T) {
	h := newHost(t)
	c := newCast(h, 300)
	h.killShim()
	c.wantAll()
	c.say("one\n")
	h.killShim()
	c.say("two\n")
	c.wantCode(c.reader, 0)
	c.reader.wantLog("got one", "got two")
	c.end()
}

// What a container says while its shim and the daemon are both dead waits for the next shim, and the
// container does not notice.
func TestBothKilled(t *testing.T) {
	const n = 300
	h := newHost(t)
	b := h.box(fmt.Sprintf("i=0; while [ $i -lt %d ]; do i=$((i+1)); echo line $i; echo $i >/test/at; busybox usleep 3000; done; read _ </test/go; exit 5", n))
	dir := b.share()
	fifo(t, dir, "go") // one that ends while both are dead loses what nobody has read
	at := func() (line int) {
		data, _ := os.ReadFile(filepath.Join(dir, "at"))
		_, _ = fmt.Sscan(string(data), &line) // it is being written
		return line
	}
	b.start()
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	shims := h.shimPids()
	h.signal(shims[0], unix.SIGKILL)
	shims[0].waitGone(t)
	then := at()
	eventually(t, "the container says more", func() bool { return at() > then+20 })
	h.reopen()
	writeFifo(t, dir, "go")
	if exit := b.wait(); exit.Code != 5 {
		t.Errorf("exit %+v", exit)
	}
	b.wantCount(n)
	if err := h.Delete(t.Context(), b.id); err != nil {
		t.Error(err)
	}
}

// countTo is a script that writes as many numbered lines, some hundred a second.
func countTo(n int) string {
	return fmt.Sprintf("i=0; while [ $i -lt %d ]; do i=$((i+1)); echo line $i; busybox usleep 3000; done; exit 5", n)
}

// wantCount checks that all lines of countTo are there, each once and in order.
func (b *box) wantCount(n int) {
	b.h.t.Helper()
	log := b.log()
	if len(log) != n {
		b.h.t.Errorf("%d lines of %d", len(log), n)
	}
	for i, r := range log {
		if want := fmt.Sprintf("line %d", i+1); r.text != want || r.tag != "F" {
			b.h.t.Fatalf("line %d is %+v", i+1, r)
		}
	}
}

func (b *box) wantLog(texts ...string) {
	b.h.t.Helper()
	var got []string
	for _, r := range b.log() {
		got = append(got, r.text)
	}
	if strings.Join(got, "|") != strings.Join(texts, "|") {
		b.h.t.Errorf("log %q, not %q", got, texts)
	}
}

// A container that a successor cannot take over is stopped, and its end is known, if not how it
// came: the others are not held up by it.
func TestShimKilledCannotTakeOver(t *testing.T) {
	if fixture.runtime != "" {
		t.Skip("the runtime's program keeps all that is needed")
	}
	h := newHost(t)
	bad, good := h.box("sleep 35131"), h.box("sleep 35132")
	bad.start()
	good.start()
	if err := os.WriteFile(filepath.Join(bad.req.Bundle, "config.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.killShim()
	if exit := bad.wait(); exit.Code != 255 {
		t.Errorf("exit = %+v", exit)
	}
	bad.checkExecs("35131")
	if st, err := h.State(t.Context(), good.id); err != nil || st.Status != shim.StatusRunning {
		t.Errorf("state = %+v, %v", st, err)
	}
	if err := h.Delete(t.Context(), bad.id); err != nil {
		t.Error(err)
	}
	if err := h.Kill(t.Context(), good.id, 9, false); err != nil {
		t.Error(err)
	}
	if exit := good.wait(); exit.Code != 137 {
		t.Errorf("exit = %+v", exit)
	}
}

// A shim that dies while it kills may leave the processes frozen; they can be killed all the
// same.
func TestKillFrozen(t *testing.T) {
	h := newHost(t)
	b := h.box("sleep 35141")
	b.start()
	if _, err := os.Stat("/sys/fs/cgroup/freezer"); err != nil {
		t.Skip("cgroup v2, where what is frozen can be killed")
	}
	freezer := "/sys/fs/cgroup/freezer" + h.cgroup + "/" + b.id + "/freezer.state"
	if err := os.WriteFile(freezer, []byte("FROZEN"), 0); err != nil {
		t.Fatal(err)
	}
	h.killShim()
	if err := h.Kill(t.Context(), b.id, 9, true); err != nil {
		t.Error(err)
	}
	if exit := b.wait(); exit.Code != 137 {
		t.Errorf("exit = %+v", exit)
	}
}
