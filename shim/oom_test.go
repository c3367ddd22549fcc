package shim_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/berthd/berth/shim"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// hungry is a container that may take 8 MiB and has what it takes to want more.
func (h *host) hungry(script string) *box {
	b := h.box(script)
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/dev/zero", Type: "bind", Source: "/dev/zero", Options: []string{"bind"}})
	b.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(8 * mib)), Swap: new(int64(8 * mib))}
	return b
}

// eat runs a command in the container that takes more memory than there is.
func (b *box) eat() {
	b.h.t.Helper()
	res, err := b.h.ExecSync(b.h.t.Context(), shim.ExecRequest{ID: b.id, Process: newSpec("", []string{"/bin/tail", "/dev/zero"}).Process})
	if err != nil || res.Code != 137 {
		b.h.t.Fatalf("the command that wants memory: %+v, %v", res, err)
	}
}

// eatBeside runs a command that wants too much memory while another, which ends with
// code by itself, runs.
func (b *box) eatBeside(t *testing.T, code int32) {
	t.Helper()
	dir := filepath.Join(b.h.state, "share-"+b.id)
	fifo(t, dir, "end")
	script := fmt.Sprintf("echo > /test/began; read _ < /test/end; exit %d", code)
	ended := make(chan error, 1)
	go func() {
		res, err := b.h.ExecSync(t.Context(), shim.ExecRequest{ID: b.id, Process: newSpec("", []string{"/bin/sh", "-c", script}).Process})
		if err == nil && res.Code != code {
			err = fmt.Errorf("%+v", res)
		}
		ended <- err
	}()
	readFifo(t, dir, "began")
	b.eat()
	writeFifo(t, dir, "end")
	if err := <-ended; err != nil {
		t.Fatalf("the command beside: %v", err)
	}
}

func (b *box) killFromOutside(pid int) {
	b.h.t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		b.h.t.Fatal(err)
	}
}

func (b *box) killByUs(int) {
	b.h.t.Helper()
	if err := b.h.Kill(b.h.t.Context(), b.id, int(unix.SIGKILL), true); err != nil {
		b.h.t.Fatal(err)
	}
}

// A container is OOM-killed when the kernel's counter says so and its own process is
// what ended by it: never by guess from 137.
func TestOOM(t *testing.T) {
	h := newHost(t)
	for _, tt := range []struct {
		name   string
		script string
		do     func(b *box, pid int)
		code   int32
		oom    bool
	}{
		{"its process", "exec tail /dev/zero", nil, 137, true},
		{"a child whose end is its own", "tail /dev/zero", nil, 137, true},
		{"a child, and it tells so", "tail /dev/zero; exit $?", nil, 137, true},
		{"a child, and it goes on", "tail /dev/zero; exit 9", nil, 9, false},
		{"a child, and it ends well", "tail /dev/zero; exit 0", nil, 0, false},
		{"137 of its own", "exit 137", nil, 137, false},
		{"a SIGKILL from outside", "sleep 1000", (*box).killFromOutside, 137, false},
		{"a SIGKILL of ours", "sleep 1000", (*box).killByUs, 137, false},
		{"a command beside it, then a SIGKILL of ours", "sleep 1000", func(b *box, pid int) { b.eat(); b.killByUs(pid) }, 137, false},
		{"commands beside it, then a SIGKILL from outside", "sleep 1000", func(b *box, pid int) { b.eat(); b.eat(); b.killFromOutside(pid) }, 137, false},
		{"a client's command beside it, then a SIGKILL from outside", "sleep 1000", func(b *box, pid int) {
			if _, _, code := outcome(t, b.session("exec tail /dev/zero", false)); code != 137 {
				t.Errorf("the command's exit code is %d", code)
			}
			b.killFromOutside(pid)
		}, 137, false},
		{"a command beside it, then itself", "read _ < /test/go; exec tail /dev/zero", func(b *box, _ int) {
			b.eat()
			writeFifo(t, filepath.Join(b.h.state, "share-"+b.id), "go")
		}, 137, true},
		{"a command beside it while another tells of such an end, then itself", "read _ < /test/go; exec tail /dev/zero", func(b *box, _ int) {
			b.eatBeside(t, 137)
			writeFifo(t, filepath.Join(b.h.state, "share-"+b.id), "go")
		}, 137, true},
		{"a child while a command of ours is killed for its timeout, and it tells so", "read _ < /test/go; tail /dev/zero; echo > /test/ready; read _ < /test/go; exit 137", func(b *box, _ int) {
			dir := filepath.Join(b.h.state, "share-"+b.id)
			ended := make(chan error, 1)
			go func() {
				_, err := b.h.ExecSync(t.Context(), shim.ExecRequest{ID: b.id, Timeout: time.Second,
					Process: newSpec("", []string{"/bin/sh", "-c", "echo > /test/began; exec sleep 1000"}).Process})
				ended <- err
			}()
			readFifo(t, dir, "began")
			writeFifo(t, dir, "go")
			readFifo(t, dir, "ready")
			if err := <-ended; !errors.Is(err, shim.ErrTimeout) {
				t.Fatal(err)
			}
			writeFifo(t, dir, "go")
		}, 137, true},
		{"a child's end, then a SIGKILL of ours", "tail /dev/zero; echo > /test/ready; exec sleep 1000", func(b *box, pid int) {
			readFifo(t, filepath.Join(b.h.state, "share-"+b.id), "ready")
			b.killByUs(pid)
		}, 137, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := h.hungry(tt.script)
			dir := b.share()
			fifo(t, dir, "go")
			fifo(t, dir, "ready")
			fifo(t, dir, "began")
			pid := b.start()
			if tt.do != nil {
				tt.do(b, pid)
			}
			if exit := b.wait(); exit.Code != tt.code || exit.OOMKilled != tt.oom {
				t.Errorf("exit = %+v, want code %d, OOM-killed %t", exit, tt.code, tt.oom)
			}
			if err := h.Delete(t.Context(), b.id); err != nil {
				t.Error(err)
			}
		})
	}
}

// The limit may be the pod's: the container that had to die is the one that counts.
// It stays OOM-killed for a daemon that comes later.
func TestOOMOfPod(t *testing.T) {
	h := newHost(t)
	dir := filepath.Join("/sys/fs/cgroup/memory", h.cgroup)
	file, swap := "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
	if onV2() {
		dir, file, swap = filepath.Join("/sys/fs/cgroup", h.cgroup), "memory.max", "memory.swap.max"
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { // the test's end removes it
		t.Fatal(err)
	}
	limit := map[string]string{file: "16777216", swap: "16777216"}
	for _, name := range []string{file, swap} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(limit[name]), 0); err != nil {
			t.Fatal(err)
		}
	}
	b, calm := h.hungry("exec tail /dev/zero"), h.box("exec sleep 1000")
	b.spec.Linux.Resources.Memory = nil
	b.spec.Process.OOMScoreAdj = new(1000)
	pid := calm.start()
	b.start()
	if exit := b.wait(); exit.Code != 137 || !exit.OOMKilled {
		t.Errorf("exit = %+v", exit)
	}
	h.reopen()
	if exit := b.wait(); exit.Code != 137 || !exit.OOMKilled {
		t.Errorf("exit after a reconnect = %+v", exit)
	}
	calm.killFromOutside(pid)
	if exit := calm.wait(); exit.Code != 137 || exit.OOMKilled {
		t.Errorf("exit of the other = %+v", exit)
	}
}
