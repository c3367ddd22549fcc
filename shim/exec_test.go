package shim_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthd/berth/shim"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// exec runs a script in the container.
func (b *box) exec(script string) (shim.ExecResult, error) {
	return b.h.ExecSync(b.h.t.Context(), b.execRequest(script))
}

func (b *box) execRequest(script string) shim.ExecRequest {
	p := *b.spec.Process
	p.Args = []string{"/bin/sh", "-c", script}
	return shim.ExecRequest{ID: b.id, Process: &p}
}

// checkExecs fails the test if a command has left a process or a cgroup.
func (b *box) checkExecs(marks ...string) {
	b.h.t.Helper()
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), "exec-") && strings.Contains(path, b.h.cgroup) {
			b.h.t.Errorf("cgroup left: %s", path)
		}
		return nil
	})
	if err != nil {
		b.h.t.Error(err)
	}
	cmdlines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range cmdlines {
		cgroups, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cgroup"))
		data, _ := os.ReadFile(path)
		for _, m := range marks {
			if bytes.Contains(data, []byte(m)) && bytes.Contains(cgroups, []byte(b.h.cgroup)) {
				b.h.t.Errorf("process left: %q", data)
			}
		}
	}
}

func TestExecSync(t *testing.T) {
	h := newHost(t)
	own, shared := h.box("sleep 1000"), h.box("sleep 1000").withoutPIDs()
	own.start()
	shared.start()
	tests := []struct {
		name, script   string
		stdout, stderr string
		code           int32
	}{
		{"success", "echo out; echo err >&2", "out\n", "err\n", 0},
		{"failure", "exit 42", "", "", 42},
		{"killed", "kill -9 $$", "", "", 137},
		{"a child in the background", "busybox sleep 31001 & echo out", "out\n", "", 0},
		{"a daemon that holds the pipe", "(busybox setsid busybox sleep 31002 &) ; echo out", "out\n", "", 0},
		{"output at the very end", "(busybox setsid sh -c 'yes | head -c 50000') & wait; echo", strings.Repeat("y\n", 25000) + "\n", "", 0},
		{"a daemon that would speak later", "(busybox setsid sh -c 'sleep 0.3; echo late' &); echo out", "out\n", "", 0},
		{"it is in the container", "hostname; cat", "box\n", "", 0},
	}
	for _, b := range []*box{own, shared} {
		for _, tt := range tests {
			t.Run(b.id+"/"+tt.name, func(t *testing.T) {
				res, err := b.exec(tt.script)
				if err != nil {
					t.Fatal(err)
				}
				if string(res.Stdout) != tt.stdout || string(res.Stderr) != tt.stderr || res.Code != tt.code {
					t.Errorf("got %.100q, %.100q, %d", res.Stdout, res.Stderr, res.Code)
				}
				b.checkExecs("31001", "31002")
			})
		}
	}
}

func TestExecSyncTimeout(t *testing.T) {
	h := newHost(t)
	for _, b := range []*box{h.box("sleep 1000"), h.box("sleep 1000").withoutPIDs()} {
		limit := int64(100)
		b.spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: &limit}
		b.start()
		req := b.execRequest("trap '' TERM; (busybox setsid busybox sleep 32001 &); busybox sleep 32002")
		req.Timeout = 200 * time.Millisecond
		_, err := h.ExecSync(t.Context(), req)
		if !errors.Is(err, shim.ErrTimeout) {
			t.Errorf("exec = %v", err)
		}
		b.checkExecs("32001", "32002")

		req = b.execRequest("f() { f | f & }; (f) & wait; busybox sleep 32003") // forks as fast as it can
		req.Timeout = 100 * time.Millisecond
		if _, err := h.ExecSync(t.Context(), req); !errors.Is(err, shim.ErrTimeout) {
			t.Errorf("exec = %v", err)
		}
		b.checkExecs("32003")
	}
}

// A caller that goes away takes its command with it.
func TestExecSyncCanceled(t *testing.T) {
	h := newHost(t)
	b := h.box("sleep 1000")
	dir := b.share()
	fifo(t, dir, "up")
	fifo(t, dir, "down")
	b.start()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := h.ExecSync(ctx, b.execRequest("exec 3>/test/down; echo up > /test/up; exec busybox sleep 33001")); !errors.Is(err, context.Canceled) {
			t.Errorf("exec = %v", err)
		}
	})
	down, err := os.OpenFile(filepath.Join(dir, "down"), os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer down.Close()
	readFifo(t, dir, "up")
	cancel()
	wg.Wait()
	if _, err := down.Read(make([]byte, 1)); err == nil { // ends when the command does
		t.Error("the command wrote something")
	}
}

func TestExecSyncLimit(t *testing.T) {
	h := newHost(t)
	b := h.box("sleep 1000")
	dir := b.share()
	b.start()
	req := b.execRequest("head -c 3000000 /test/zero; head -c 100 /test/zero >&2; echo done > /test/done")
	if err := os.WriteFile(filepath.Join(dir, "zero"), make([]byte, 3000000), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int64{1, 100, 65536, 2999999, 3000000} {
		req.Limit = limit
		res, err := h.ExecSync(t.Context(), req)
		if err != nil || int64(len(res.Stdout)) != limit || int64(len(res.Stderr)) != min(limit, 100) {
			t.Fatalf("limit %d: %d and %d bytes, %v", limit, len(res.Stdout), len(res.Stderr), err)
		}
		if err := os.Remove(filepath.Join(dir, "done")); err != nil {
			t.Error("the command did not go on:", err)
		}
	}
	// More than a ttrpc message holds.
	req = b.execRequest("yes | head -c 17000000")
	res, err := h.ExecSync(t.Context(), req)
	if err != nil || len(res.Stdout) != 16<<20 || res.Code != 0 {
		t.Errorf("%d bytes, code %d, %v", len(res.Stdout), res.Code, err)
	}
}

func TestExecSyncErrors(t *testing.T) {
	h := newHost(t)
	up, down := h.box("sleep 1000"), h.box("true")
	up.start()
	req := up.execRequest("")
	req.Process.Args = []string{"nosuch"}
	if _, err := h.ExecSync(t.Context(), req); err == nil || !strings.Contains(err.Error(), "nosuch") || !strings.Contains(err.Error(), "not found in $PATH") {
		t.Errorf("no such command: %v", err)
	}
	req.Process = &specs.Process{Cwd: "/"}
	if _, err := h.ExecSync(t.Context(), req); !errors.Is(err, shim.ErrInvalid) {
		t.Errorf("no command: %v", err)
	}
	up.checkExecs()
	if _, err := down.create(); err != nil {
		t.Fatal(err)
	}
	if _, err := down.exec("true"); !errors.Is(err, shim.ErrNotRunning) {
		t.Errorf("created: %v", err)
	}
	if err := h.Start(t.Context(), down.id); err != nil {
		t.Fatal(err)
	}
	down.wait()
	if _, err := down.exec("true"); !errors.Is(err, shim.ErrNotRunning) {
		t.Errorf("exited: %v", err)
	}
	req.ID = "nobody"
	if _, err := h.ExecSync(t.Context(), req); !errors.Is(err, shim.ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
}

// A container that ends ends its commands.
func TestExecSyncContainerEnds(t *testing.T) {
	h := newHost(t)
	for _, b := range []*box{h.box("sleep 1000"), h.box("sleep 1000").withoutPIDs()} {
		dir := b.share()
		fifo(t, dir, "up")
		b.start()
		var wg sync.WaitGroup
		wg.Go(func() {
			res, err := b.exec("echo up > /test/up; busybox sleep 34001")
			if err != nil || res.Code != 137 {
				t.Errorf("exec = %+v, %v", res, err)
			}
		})
		readFifo(t, dir, "up")
		if err := h.Kill(t.Context(), b.id, 9, false); err != nil {
			t.Error(err)
		}
		b.wait()
		wg.Wait()
		b.checkExecs("34001")
	}
}

func TestExecSyncManyAtOnce(t *testing.T) {
	h := newHost(t)
	b := h.box("sleep 1000")
	b.start()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for range 4 {
				res, err := b.exec(fmt.Sprintf("echo %d; exit %d", i, i))
				if err != nil || res.Code != int32(i) || string(res.Stdout) != fmt.Sprintln(i) {
					t.Errorf("%d: %+v, %v", i, res, err)
				}
			}
		})
	}
	wg.Wait()
	b.checkExecs()
}
