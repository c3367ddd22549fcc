package shim_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/shim"
)

// testContext is for what happens in a cleanup, when the test's own has ended.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestExit(t *testing.T) {
	h := newHost(t)
	tests := []struct {
		name   string
		script string
		code   int32
		log    []record
	}{
		{"success", "echo hello", 0, []record{{"stdout", "F", "hello"}}},
		{"failure", "echo oh >&2; exit 3", 3, []record{{"stderr", "F", "oh"}}},
		{"128 + signal", "busybox sleep 100 & kill -TERM $!; wait $!", 143, []record{{"stderr", "F", "Terminated"}}},
		{"no line end", "printf abc", 0, []record{{"stdout", "P", "abc"}}},
		{"empty lines", `printf '\n\na\n'`, 0, []record{{"stdout", "F", ""}, {"stdout", "F", ""}, {"stdout", "F", "a"}}},
		{"a background process that holds the pipe", "sleep 1000 & echo bye", 0, []record{{"stdout", "F", "bye"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := h.box(tt.script)
			before := time.Now()
			exit := b.run()
			if exit.Code != tt.code || exit.OOMKilled {
				t.Errorf("exit = %+v, want code %d", exit, tt.code)
			}
			if exit.At.Before(before) || exit.At.After(time.Now()) {
				t.Errorf("exited at %s, started at %s", exit.At, before)
			}
			if got := b.log(); !slices.Equal(got, tt.log) {
				t.Errorf("log = %q, want %q", got, tt.log)
			}
			st, err := h.State(t.Context(), b.id)
			if err != nil || st.Status != shim.StatusExited || st.Exit != exit || st.PodID != b.req.PodID {
				t.Errorf("state = %+v, %v", st, err)
			}
			if err := h.Kill(t.Context(), b.id, 9, false); !errors.Is(err, shim.ErrNotFound) {
				t.Errorf("kill of an exited container = %v", err)
			}
		})
	}
}

func TestKill(t *testing.T) {
	h := newHost(t)
	b := h.box("trap 'exit 7' TERM; echo ready > /test/ready; while :; do sleep 0.01; done")
	dir := b.share()
	fifo(t, dir, "ready")
	b.start()
	readFifo(t, dir, "ready")
	if err := h.Kill(t.Context(), b.id, int(unix.SIGTERM), false); err != nil {
		t.Fatal(err)
	}
	if exit := b.wait(); exit.Code != 7 {
		t.Errorf("exit = %+v", exit)
	}

	b = h.box("sleep 1000")
	b.start()
	if err := h.Kill(t.Context(), b.id, int(unix.SIGKILL), true); err != nil {
		t.Fatal(err)
	}
	if exit := b.wait(); exit.Code != 137 || exit.OOMKilled {
		t.Errorf("exit = %+v", exit)
	}
	if err := h.Kill(t.Context(), "nobody", 9, false); !errors.Is(err, shim.ErrNotFound) {
		t.Errorf("kill of nobody = %v", err)
	}
}

func TestDelete(t *testing.T) {
	h := newHost(t)
	created, run, done := h.box("true"), h.box("sleep 1000"), h.box("true")
	if _, err := created.create(); err != nil {
		t.Fatal(err)
	}
	pid := run.start()
	done.run()
	for _, b := range []*box{created, run, done} {
		for range 2 {
			if err := h.Delete(t.Context(), b.id); err != nil {
				t.Error(err)
			}
		}
		if _, err := h.State(t.Context(), b.id); !errors.Is(err, shim.ErrNotFound) {
			t.Errorf("state after delete = %v", err)
		}
	}
	if alive(pid) {
		t.Errorf("process %d is alive", pid)
	}
	if err := h.Delete(t.Context(), "nobody"); err != nil {
		t.Error(err)
	}
	if n := len(h.shimPids()); n != 1 {
		t.Errorf("%d shims", n)
	}
}

func TestBadCreate(t *testing.T) {
	h := newHost(t)
	tests := []struct {
		name string
		edit func(*box)
		want string
	}{
		{"no such command", func(b *box) { b.spec.Process.Args = []string{"foo"} }, "not found in $PATH"},
		{"no such path", func(b *box) { b.spec.Process.Args = []string{"/foo"} }, "no such file or directory"},
		{"no working directory", func(b *box) { b.spec.Process.Cwd = "x" }, "absolute path"},
		{"no such mount source", func(b *box) {
			b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/nowhere", Options: []string{"bind"}})
		}, "/nowhere"},
		{"log folder is a file", func(b *box) { b.req.LogPath = filepath.Join(fixture.binary, "log") }, "not a directory"},
		{"limit above ours", func(b *box) {
			b.spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1 << 40, Soft: 1 << 40}}
		}, "rlimit"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := h.box("true")
			tt.edit(b)
			_, err := b.create()
			if err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(tt.want)) || !strings.Contains(err.Error(), b.id) {
				t.Fatalf("create = %v", err)
			}
			t.Log(err)
			if _, err := h.State(t.Context(), b.id); !errors.Is(err, shim.ErrNotFound) {
				t.Errorf("state = %v", err)
			}
			if err := h.Delete(t.Context(), b.id); err != nil {
				t.Error(err)
			}
		})
	}
	b := h.box("true")
	b.run()
	if err := h.Start(t.Context(), b.id); !errors.Is(err, shim.ErrNotRunning) {
		t.Errorf("second start = %v", err)
	}
	if _, err := b.create(); !errors.Is(err, shim.ErrExists) {
		t.Errorf("second create = %v", err)
	}
}

func TestReconnect(t *testing.T) {
	h := newHost(t)
	stay, leave, created := h.box("sleep 1000"), h.box("read _ < /test/go; exit 5"), h.box("true")
	dir := leave.share()
	fifo(t, dir, "go")
	pids := map[string]int{stay.id: stay.start(), leave.id: leave.start()}
	pid, err := created.create()
	if err != nil {
		t.Fatal(err)
	}
	pids[created.id] = pid
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	writeFifo(t, dir, "go")
	waitFile(t, filepath.Join(leave.req.Bundle, "exit.json"))
	h.reopen()

	tasks, err := h.Tasks(t.Context())
	if err != nil || len(tasks) != 3 {
		t.Fatalf("tasks = %v, %v", tasks, err)
	}
	want := map[string]shim.Status{stay.id: shim.StatusRunning, leave.id: shim.StatusExited, created.id: shim.StatusCreated}
	for _, task := range tasks {
		if task.Status != want[task.ID] || task.Pid != pids[task.ID] || task.PodID != "p-"+task.ID || task.Err != nil {
			t.Errorf("task %+v", task)
		}
	}
	if exit := leave.wait(); exit.Code != 5 {
		t.Errorf("exit = %+v", exit)
	}
	if err := h.Start(t.Context(), created.id); err != nil {
		t.Error(err)
	}
	if exit := created.wait(); exit.Code != 0 {
		t.Errorf("exit = %+v", exit)
	}
	if n := len(h.shimPids()); n != 1 {
		t.Errorf("%d shims", n)
	}
}

func TestEightAtOnce(t *testing.T) {
	h := newHost(t)
	var wg sync.WaitGroup
	for i := range 24 {
		b := h.box(fmt.Sprintf("echo %d; exit %d", i, i))
		if i%3 == 0 {
			b.withoutPIDs()
		}
		wg.Go(func() {
			for range 3 {
				if _, err := b.create(); err != nil {
					t.Error(err)
					return
				}
				if err := h.Start(t.Context(), b.id); err != nil {
					t.Error(err)
					return
				}
				exit, err := h.Wait(t.Context(), b.id)
				if err != nil || exit.Code != int32(i) {
					t.Errorf("exit = %+v, %v", exit, err)
				}
				if err := h.Delete(t.Context(), b.id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	// One that has been busy for long is taken for one that does not answer.
	if n := len(h.shimPids()); n > 2 {
		t.Errorf("%d shims", n)
	}
}

func TestTerminal(t *testing.T) {
	h := newHost(t)
	b := h.box("test -t 0 && test -t 1 && test -t 2 && tty && seq 1 2000")
	b.spec.Process.Terminal, b.req.Terminal = true, true
	if exit := b.run(); exit.Code != 0 {
		t.Errorf("exit = %+v", exit)
	}
	got := b.log()
	if len(got) != 2001 || got[0].text != "/dev/pts/0\r" || got[2000] != (record{"stdout", "F", "2000\r"}) {
		t.Errorf("%d lines: %q", len(got), got)
	}
}

func TestStdin(t *testing.T) {
	h := newHost(t)
	b := h.box("cat; echo end")
	if b.run(); !slices.Equal(b.log(), []record{{"stdout", "F", "end"}}) {
		t.Errorf("log = %q", b.log())
	}
	b = h.box("test -p /dev/stdin; echo $?")
	b.req.Stdin = true
	if b.run(); !slices.Equal(b.log(), []record{{"stdout", "F", "0"}}) {
		t.Errorf("log = %q", b.log())
	}
}

// The pipes a container gets block, as everywhere.
func TestBlockingStdout(t *testing.T) {
	h := newHost(t)
	b := h.box("grep flags /proc/self/fdinfo/1")
	b.run()
	if got := b.log(); len(got) != 1 || strings.Contains(got[0].text, "4") {
		t.Errorf("log = %q", got) // O_NONBLOCK is 04000
	}
}

func TestPodsPerProcess(t *testing.T) {
	h := newHost(t)
	h.options.PodsPerProcess = 2
	h.reopen()
	var boxes []*box
	for i := range 6 {
		b := h.box("sleep 1000")
		b.req.PodID = fmt.Sprint("pod", i%3)
		b.start()
		boxes = append(boxes, b)
	}
	if n := len(h.shimPids()); n != 2 {
		t.Errorf("%d shims for three pods, want 2", n)
	}
	for _, b := range boxes {
		if err := h.Delete(t.Context(), b.id); err != nil {
			t.Error(err)
		}
	}
}

func alive(pid int) bool { return unix.Kill(pid, 0) == nil }

func fifo(t testing.TB, dir, name string) {
	t.Helper()
	if err := unix.Mkfifo(filepath.Join(dir, name), 0o666); err != nil {
		t.Fatal(err)
	}
}

// readFifo waits until the container writes into a fifo and returns what.
func readFifo(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// writeFifo waits until the container reads from a fifo.
func writeFifo(t *testing.T, dir, name string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("go\n"); err != nil {
		t.Error(err)
	}
	f.Close()
}
