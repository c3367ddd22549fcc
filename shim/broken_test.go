package shim_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/shim"
	"golang.org/x/sys/unix"
)

// program writes a shell script in the place of a runtime's program. In it $real is a
// runtime that works, and $verb what is asked for.
func (h *host) program(real, text string) string {
	h.t.Helper()
	const head = `#!/bin/sh
real=%s; verb=
for a; do case $a in create|start|exec|delete|pause|resume|features|--version) verb=$a; break;; esac; done
case "$*" in *--help*) verb=help;; esac
%s
exec $real "$@"
`
	path := filepath.Join(h.state, "runtime")
	if err := os.WriteFile(path+".new", fmt.Appendf(nil, head, real, text), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil { // one that runs is not written to
		h.t.Fatal(err)
	}
	return path
}

// A program that fails, hangs or talks nonsense is an error that says so, and leaves
// nothing behind.
func TestBrokenRuntime(t *testing.T) {
	found := runtimes()
	if fixture.runtime != "" || len(found) == 0 {
		t.Skip("once is enough, with a runtime that works")
	}
	real := found[len(found)-1]
	for _, tt := range []struct {
		name, script string
		want         error
		says         string
	}{
		{"no OCI runtime", "echo hello; exit 0", shim.ErrBrokenRuntime, `"hello"`},
		{"it fails at all times", "echo broken pipe >&2; exit 3", shim.ErrBrokenRuntime, "broken pipe"},
		{"create fails without a word", "[ $verb = create ] && exit 1", shim.ErrBrokenRuntime, "does not say why"},
		{"create logs nonsense", `[ $verb = create ] && { while [ "$1" != --log ]; do shift; done; printf '\033[2Jnonsense' >$2; exit 1; }`, shim.ErrBrokenRuntime, "nonsense"},
		{"create refuses", `[ $verb = create ] && { while [ "$1" != --log ]; do shift; done; echo '{"level":"error","msg":"no such thing"}' >$2; exit 1; }`, shim.ErrRefused, "no such thing"},
		{"create makes nothing", "[ $verb = create ] && exit 0", shim.ErrBrokenRuntime, "is not the ID of a process"},
		{"create names another's process", `[ $verb = create ] && { while [ "$1" != --pid-file ]; do shift; done; echo 1 >$2; exit 0; }`, shim.ErrBrokenRuntime, `"1" is not the ID`},
		{"create is killed", "[ $verb = create ] && kill -9 $$", shim.ErrBrokenRuntime, "killed"},
		{"delete fails", "[ $verb = delete ] && exit 1", nil, ""},
		{"delete is killed", "[ $verb = delete ] && kill -9 $$", nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t)
			b := h.box("sleep 1000")
			b.req.Runtime = h.program(real, tt.script)
			_, err := b.create()
			if !errors.Is(err, tt.want) || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("create = %v, want %v with %q", err, tt.want, tt.says)
			}
			t.Log(err)
			if err != nil && strings.ContainsRune(err.Error(), 033) {
				t.Errorf("%q talks to the terminal", err)
			}
			if err := h.Delete(t.Context(), b.id); err != nil {
				t.Errorf("delete = %v", err)
			}
			ok := h.box("exit 3") // it is mended, and found to be
			ok.req.Runtime = h.program(real, "")
			eventually(t, "broken", func() bool {
				_, err := ok.create()
				return err == nil
			})
			if err := h.Start(t.Context(), ok.id); err != nil {
				t.Error(err)
			}
			if exit := ok.wait(); exit.Code != 3 {
				t.Errorf("exit = %+v", exit)
			}
		})
	}
}

// A program that is not there, or cannot be run, is named.
func TestMissingRuntime(t *testing.T) {
	h := newHost(t)
	plain := filepath.Join(h.state, "plain")
	if err := os.WriteFile(plain, []byte("text\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for path, says := range map[string]string{"/no/such/runtime": "no such file", plain: "permission denied"} {
		b := h.box("true")
		b.req.Runtime = path
		if _, err := b.create(); !errors.Is(err, shim.ErrBrokenRuntime) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := (&shim.Runtimes{}).Features(t.Context(), path); !errors.Is(err, shim.ErrBrokenRuntime) {
			t.Errorf("%s: %v", path, err)
		}
	}
	b := h.box("true")
	b.req.Runtime = "runc"
	if _, err := b.create(); !errors.Is(err, shim.ErrInvalid) {
		t.Errorf("a relative path: %v", err)
	}
}

// What waits for a program that hangs ends with who asked, or with the container.
func TestHangingRuntime(t *testing.T) {
	found := runtimes()
	if fixture.runtime != "" || len(found) == 0 {
		t.Skip("once is enough, with a runtime that works")
	}
	real := found[len(found)-1]
	short := func(t *testing.T) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		t.Cleanup(cancel)
		return ctx
	}
	t.Run("create", func(t *testing.T) {
		h := newHost(t)
		b := h.box("true")
		b.req.Runtime = h.program(real, "[ $verb = create ] && exec sleep 35100")
		b.write()
		if _, err := h.Create(short(t), b.req); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("create = %v", err)
		}
		b.checkGone("35100")
	})
	t.Run("create, and the shim dies", func(t *testing.T) {
		h := newHost(t)
		b := h.box("true")
		dir := t.TempDir()
		fifo(t, dir, "hangs")
		b.req.Runtime = h.program(real, "[ $verb = create ] && { echo > "+filepath.Join(dir, "hangs")+"; exec sleep 35104; }")
		b.write()
		done := make(chan error, 1)
		go func() {
			_, err := h.Create(t.Context(), b.req)
			done <- err
		}()
		readFifo(t, dir, "hangs")
		shims := h.shimPids()
		if err := unix.Kill(shims[0].pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err == nil {
			t.Error("created")
		}
		if err := h.Delete(t.Context(), b.id); err != nil {
			t.Error(err)
		}
		b.checkGone("35104") // it would go on, and make a container that nobody knows of
	})
	t.Run("start", func(t *testing.T) {
		h := newHost(t)
		b := h.box("true")
		b.req.Runtime = h.program(real, "[ $verb = start ] && exec sleep 35101")
		if _, err := b.create(); err != nil {
			t.Fatal(err)
		}
		if err := h.Start(short(t), b.id); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("start = %v", err)
		}
		if err := h.Delete(t.Context(), b.id); err != nil {
			t.Error(err)
		}
		b.checkGone("35101")
	})
	t.Run("exec, and the container ends", func(t *testing.T) {
		h := newHost(t)
		b := h.box("read _ < /test/go; exit 5")
		dir := b.share()
		fifo(t, dir, "go")
		fifo(t, dir, "hangs")
		b.req.Runtime = h.program(real, "[ $verb = exec ] && { echo > "+filepath.Join(dir, "hangs")+"; exec sleep 35102; }")
		b.start()
		done := make(chan error, 1)
		go func() {
			_, err := h.ExecSync(t.Context(), shim.ExecRequest{ID: b.id, Process: newSpec("", []string{"/bin/true"}).Process})
			done <- err
		}()
		readFifo(t, dir, "hangs")
		writeFifo(t, dir, "go")
		if exit := b.wait(); exit.Code != 5 {
			t.Errorf("exit = %+v", exit)
		}
		if err := <-done; err == nil {
			t.Error("the command ran")
		}
		b.checkGone("35102")
	})
	t.Run("delete", func(t *testing.T) {
		h := newHost(t)
		b := h.box("sleep 1000")
		b.req.Runtime = h.program(real, "[ $verb = delete ] && exec sleep 35103")
		b.start()
		if err := h.Delete(t.Context(), b.id); err != nil {
			t.Errorf("delete = %v", err)
		}
		b.checkGone("35103")
	})
}

// checkGone expects no process with a word in its command line.
func (b *box) checkGone(word string) {
	b.h.t.Helper()
	eventually(b.h.t, "process "+word+" is there", func() bool {
		lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, l := range lines {
			data, _ := os.ReadFile(l)
			if strings.Contains(string(data), word) && !strings.Contains(string(data), "verb") {
				return false
			}
		}
		return true
	})
}
