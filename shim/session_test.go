package shim_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/shim"
)

// session runs a script in the container for a client.
func (b *box) session(script string, terminal bool) *shim.Session {
	b.h.t.Helper()
	p := *b.spec.Process
	p.Args, p.Terminal = []string{"/bin/sh", "-c", script}, terminal
	return b.open(shim.SessionRequest{Process: &p, Stdin: true, Stdout: true, Stderr: !terminal})
}

func (b *box) open(req shim.SessionRequest) *shim.Session {
	b.h.t.Helper()
	req.ID = b.id
	x, err := b.h.OpenSession(b.h.t.Context(), req)
	if err != nil {
		b.h.t.Fatal(err)
	}
	b.h.t.Cleanup(func() { _ = x.Close() })
	return x
}

// outcome is all that a session gives.
func outcome(t *testing.T, x *shim.Session) (stdout, stderr string, code int32) {
	t.Helper()
	errs := make(chan string, 1)
	go func() {
		var data []byte
		if r := x.Stderr(); r != nil {
			data, _ = io.ReadAll(r)
		}
		errs <- string(data)
	}()
	data, _ := io.ReadAll(x.Stdout())
	code, err := x.Result()
	if err != nil {
		t.Fatal(err)
	}
	return string(data), <-errs, code
}

func TestSessionExec(t *testing.T) {
	h := newHost(t)
	own, shared := h.box("sleep 1000"), h.box("sleep 1000").withoutPIDs()
	own.start()
	shared.start()
	for _, b := range []*box{own, shared} {
		for _, tt := range []struct {
			name, script, stdin string
			terminal            bool
			stdout, stderr      string
			code                int32
		}{
			{"both streams and a code", "echo out; echo err >&2; exit 3", "", false, "out\n", "err\n", 3},
			{"stdin to its end", "cat; echo end", "some text\n", false, "some text\nend\n", "", 0},
			{"killed", "kill -9 $$", "", false, "", "", 137},
			{"much", "yes | head -c 3000000", "", false, strings.Repeat("y\n", 1500000), "", 0},
			{"a terminal", "tty; stty -echo; read x; echo got $x; exit 7", "abc\n", true, "/dev/pts/0\r\ngot abc\r\n", "", 7},
			{"a daemon that holds the pipes", "(busybox setsid busybox sleep 31102 &); echo out", "", false, "out\n", "", 0},
			{"a daemon that writes for ever", "(busybox setsid yes >&2 &); echo out", "", false, "out\n", "any", 0},
		} {
			t.Run(b.id+"/"+tt.name, func(t *testing.T) {
				x := b.session(tt.script, tt.terminal)
				if tt.terminal {
					defer x.Close()
					r := x.Stdout()
					first := make([]byte, len("/dev/pts/0\r\n"))
					if _, err := io.ReadFull(r, first); err != nil {
						t.Fatal(err)
					}
					go io.WriteString(x, tt.stdin)
					rest, _ := io.ReadAll(r)
					code, err := x.Result()
					if got := string(first) + strings.TrimPrefix(string(rest), "abc\r\n"); got != tt.stdout || code != tt.code || err != nil {
						t.Errorf("%q, code %d, %v", got, code, err)
					}
					return
				}
				go func() {
					io.WriteString(x, tt.stdin)
					x.CloseWrite()
				}()
				stdout, stderr, code := outcome(t, x)
				if tt.stderr == "any" {
					stderr = "any"
				}
				if stdout != tt.stdout || stderr != tt.stderr || code != tt.code {
					t.Errorf("%.60q (%d bytes), %.60q, code %d", stdout, len(stdout), stderr, code)
				}
			})
		}
		b.checkExecs()
	}
}

// What a command leaves behind on purpose stays, as a process of the container;
// the session's cgroup goes all the same.
func TestSessionLeavesDaemon(t *testing.T) {
	h := newHost(t)
	b := h.box("sleep 1000")
	b.start()
	outcome(t, b.session("busybox setsid busybox sleep 31201 >/dev/null 2>&1 </dev/null & exit 0", false))
	b.checkExecs()
	if !b.runs("31201") {
		t.Error("the daemon is gone")
	}
}

// runs reports whether a process of the container has mark in its command line.
func (b *box) runs(mark string) bool {
	cmdlines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range cmdlines {
		cgroups, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cgroup"))
		data, _ := os.ReadFile(path)
		if strings.Contains(string(data), mark) && strings.Contains(string(cgroups), b.h.cgroup) {
			return true
		}
	}
	return false
}

func TestSessionErrors(t *testing.T) {
	h := newHost(t)
	b := h.box("sleep 1000")
	p := *b.spec.Process
	open := func(id string, args ...string) error {
		q := p
		q.Args = args
		x, err := h.OpenSession(t.Context(), shim.SessionRequest{ID: id, Process: &q, Stdout: true})
		if err == nil {
			x.Close()
		}
		return err
	}
	b.create()
	if err := open(b.id, "true"); !errors.Is(err, shim.ErrNotRunning) {
		t.Errorf("in a created container: %v", err)
	}
	if err := h.Start(t.Context(), b.id); err != nil {
		t.Fatal(err)
	}
	if err := open("nobody", "true"); !errors.Is(err, shim.ErrNotFound) {
		t.Errorf("in no container: %v", err)
	}
	for _, terminal := range []bool{false, true} {
		p.Terminal = terminal
		if err := open(b.id, "/no/such/thing"); err == nil || !strings.Contains(err.Error(), "/no/such/thing") {
			t.Errorf("of no command: %v", err)
		}
	}
	b.checkExecs()
	if err := h.Kill(t.Context(), b.id, 9, true); err != nil {
		t.Fatal(err)
	}
	b.wait()
	if err := open(b.id, "true"); !errors.Is(err, shim.ErrNotRunning) {
		t.Errorf("in an exited container: %v", err)
	}
	if _, err := h.OpenSession(t.Context(), shim.SessionRequest{ID: b.id, Stdout: true}); !errors.Is(err, shim.ErrNotRunning) {
		t.Errorf("attached to an exited container: %v", err)
	}
}

// A session that is closed ends its command and all that it started, within a
// moment; so does the end of the container.
func TestSessionEnds(t *testing.T) {
	h := newHost(t)
	for _, tt := range []struct {
		name     string
		terminal bool
		end      func(b *box, x *shim.Session)
	}{
		{"closed", false, func(_ *box, x *shim.Session) { x.Close() }},
		{"hung up", true, func(_ *box, x *shim.Session) { x.Close() }},
		{"the container killed", false, func(b *box, _ *shim.Session) { _ = h.Kill(b.h.t.Context(), b.id, 9, false) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := h.box("sleep 1000")
			b.start()
			x := b.session("trap '' HUP; busybox setsid busybox sleep 31301 & echo go; while :; do sleep 1; done", tt.terminal)
			if _, err := io.ReadFull(x.Stdout(), make([]byte, 3)); err != nil {
				t.Fatal(err)
			}
			tt.end(b, x)
			eventually(t, "gone", func() bool { return !b.runs("31301") })
			if tt.name == "the container killed" {
				if code, err := x.Result(); code != 137 || err != nil {
					t.Errorf("code %d, %v", code, err)
				}
			}
			eventually(t, "cleaned up", func() bool { return !b.hasExecs() })
		})
	}
}

// hasExecs reports whether a command's cgroup is there.
func (b *box) hasExecs() bool {
	found := false
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		found = found || err == nil && strings.HasPrefix(d.Name(), "exec-") && strings.Contains(path, b.h.cgroup)
		return nil
	})
	return found
}

func TestSessionResize(t *testing.T) {
	h := newHost(t)
	b := h.box("sleep 1000")
	b.start()
	x := b.session("stty -echo; echo go; read _; stty size", true)
	r := x.Stdout()
	if _, err := io.ReadFull(r, make([]byte, len("go\r\n"))); err != nil {
		t.Fatal(err)
	}
	x.Resize(123, 45)
	io.WriteString(x, "\n")
	if data, _ := io.ReadAll(r); string(data) != "45 123\r\n" {
		t.Errorf("size = %q", data)
	}
}

func TestAttach(t *testing.T) {
	h := newHost(t)
	b := h.box("read x; echo got $x; echo err >&2; read y; echo then $y; exit 5")
	b.req.Stdin = true
	b.start()
	all := shim.SessionRequest{Stdin: true, Stdout: true, Stderr: true}
	first, second := b.open(all), b.open(shim.SessionRequest{Stdout: true})
	io.WriteString(first, "one\n")
	got := make([]byte, len("got one\n"))
	if _, err := io.ReadFull(first.Stdout(), got); err != nil || string(got) != "got one\n" {
		t.Fatalf("%q, %v", got, err)
	}
	first.CloseWrite() // not once: the next client goes on
	first.Close()
	third := b.open(all)
	io.WriteString(third, "two\n")
	if stdout, _, code := outcome(t, third); stdout != "then two\n" || code != 5 {
		t.Errorf("third: %q, code %d", stdout, code)
	}
	if stdout, _, code := outcome(t, second); stdout != "got one\nthen two\n" || code != 5 {
		t.Errorf("second: %q, code %d", stdout, code)
	}
	if got := b.log(); len(got) != 3 {
		t.Errorf("log = %q", got)
	}
}

// With stdin_once, the container's input ends with the first client that had it,
// whether that ended it or went away, and whoever else is attached.
func TestAttachStdinOnce(t *testing.T) {
	h := newHost(t)
	for name, end := range map[string]func(*shim.Session){
		"ended": func(x *shim.Session) { x.CloseWrite() },
		"gone":  func(x *shim.Session) { x.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			b := h.box("cat; echo end")
			b.req.Stdin, b.req.StdinOnce = true, true
			b.start()
			first, other := b.open(shim.SessionRequest{Stdin: true}), b.open(shim.SessionRequest{Stdin: true, Stdout: true})
			io.WriteString(first, "hello\n")
			end(first)
			if stdout, _, _ := outcome(t, other); stdout != "hello\nend\n" {
				t.Errorf("output = %q", stdout)
			}
		})
	}
}

func TestAttachTerminal(t *testing.T) {
	h := newHost(t)
	b := h.box("stty -echo; while read x; do echo got $x; stty size; done")
	b.req.Terminal, b.spec.Process.Terminal = true, true
	b.start()
	x := b.open(shim.SessionRequest{Stdin: true, Stdout: true})
	x.Resize(80, 24)
	io.WriteString(x, "a\n")
	var text string
	buf := make([]byte, 100)
	for !strings.Contains(text, "24 80\r\n") {
		n, err := x.Stdout().Read(buf)
		if err != nil {
			t.Fatalf("%q, %v", text, err)
		}
		text += string(buf[:n])
	}
	if !strings.Contains(text, "got a\r\n") {
		t.Errorf("output = %q", text)
	}
}

// A client that does not read holds up nobody, and is told what it has lost.
func TestAttachSlow(t *testing.T) {
	h := newHost(t)
	b := h.box("read _; seq 1 1000000; echo done")
	b.req.Stdin = true
	b.start()
	slow := b.open(shim.SessionRequest{Stdin: true, Stdout: true})
	io.WriteString(slow, "\n")
	if exit := b.wait(); exit.Code != 0 {
		t.Fatalf("exit = %+v", exit)
	}
	if log := b.log(); len(log) != 1000001 {
		t.Errorf("%d lines logged", len(log))
	}
	stdout, _, _ := outcome(t, slow)
	if len(stdout) < 1<<19 || len(stdout) > 3<<20 || !strings.Contains(stdout, "bytes of output are lost here") {
		t.Errorf("%d bytes, ending in %q", len(stdout), stdout[max(0, len(stdout)-200):])
	}
}

// A daemon that dies takes its sessions along: the shim sees the connection end.
// A shim that dies ends them with an error, and kills their commands; its successor opens new ones.
func TestSessionShimDies(t *testing.T) {
	h := newHost(t)
	b := h.box("sleep 1000")
	b.start()
	x := b.session("sleep 1000", false)
	h.signal(h.stop(), unix.SIGKILL)
	done := make(chan error, 1)
	go func() {
		_, _ = io.ReadAll(x.Stdout())
		_, err := x.Result()
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, shim.ErrUnavailable) {
			t.Errorf("result = %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("no result")
	}
	y := b.session("echo new", false)
	out, err := io.ReadAll(y.Stdout())
	if _, rerr := y.Result(); err != nil || rerr != nil || string(out) != "new\n" {
		t.Errorf("a session with the successor: %q, %v, %v", out, err, rerr)
	}
	if err := h.Kill(t.Context(), b.id, int(unix.SIGKILL), false); err != nil {
		t.Error(err)
	}
	b.checkExecs("1000")
}
