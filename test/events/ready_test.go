package events

import (
	"cmp"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// promised is how long RuntimeReady may lag behind the truth.
const promised = 30 * time.Second

// runtimeReady is the condition.
func runtimeReady(t *testing.T, f *node.Fresh) *runtimeapi.RuntimeCondition {
	t.Helper()
	resp, err := f.Status(t.Context(), &runtimeapi.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range resp.GetStatus().GetConditions() {
		if c.GetType() == runtimeapi.RuntimeReady {
			return c
		}
	}
	t.Fatal("no condition RuntimeReady")
	return nil
}

// becomes asks as kubelet does, if more often, until the condition is so.
func becomes(t *testing.T, f *node.Fresh, want bool) *runtimeapi.RuntimeCondition {
	t.Helper()
	start := time.Now()
	for {
		c := runtimeReady(t, f)
		if took := time.Since(start); c.GetStatus() == want {
			t.Logf("RuntimeReady is %t after %v: %s %s", want, took.Round(time.Millisecond), c.GetReason(), c.GetMessage())
			return c
		} else if took > promised {
			t.Fatalf("RuntimeReady is still %v after %v", c, took)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// unfit expects the condition true, breaks the node, expects it false for a reason
// whose message has text, mends the node and expects it true and pods to run.
func unfit(t *testing.T, f *node.Fresh, text string, spoil, mend func()) {
	t.Helper()
	if c := runtimeReady(t, f); !c.GetStatus() {
		t.Fatalf("at the start: %v", c)
	}
	spoil()
	if c := becomes(t, f, false); c.GetReason() != "SelfTestFailed" || !strings.Contains(c.GetMessage(), text) {
		t.Errorf("condition %v, want %q in it", c, text)
	}
	mend()
	becomes(t, f, true)
	id, err := f.RunPod(t.Context(), node.Pod("fit", f.Logs))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.RemovePod(t.Context(), id); err != nil {
		t.Error(err)
	}
}

// withShim opens a node whose shim is a copy of its own, to spoil and to mend.
func withShim(t *testing.T) (f *node.Fresh, path string, spoil, mend func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "berth-shim")
	f = node.Open(t, "", func(w *node.World) {
		bin := cmp.Or(os.Getenv("BERTH_BIN"), filepath.Join(w.Repo, "bin"))
		data, err := os.ReadFile(filepath.Join(bin, "berth-shim"))
		if err := errors.Join(err, os.WriteFile(path, data, 0o755),
			os.Symlink(filepath.Join(bin, "berthd"), filepath.Join(filepath.Dir(path), "berthd"))); err != nil {
			t.Fatal(err)
		}
		t.Setenv("BERTH_BIN", filepath.Dir(path))
	})
	rename := func(from, to string) {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	spoil = func() {
		if err := os.WriteFile(path+".bad", []byte("no program"), 0o755); err != nil {
			t.Fatal(err)
		}
		rename(path, path+".good")
		rename(path+".bad", path)
	}
	return f, path, spoil, func() { rename(path+".good", path) }
}

// TestNotReadyWithoutShim: a shim that is no program any more makes the node unfit
// until there is one again.
func TestNotReadyWithoutShim(t *testing.T) {
	f, path, spoil, mend := withShim(t)
	unfit(t, f, path, spoil, mend)
	f.Done(t)
}

// TestStopDuringSelfTest: a daemon that stops while the self-test runs leaves nothing
// of it; what one that is killed leaves, the next one takes away. When it strikes is
// chance here; sandbox.TestSelfTestLeavesNothing strikes surely.
func TestStopDuringSelfTest(t *testing.T) {
	f, _, spoil, mend := withShim(t)
	left := func() (list []string) {
		for _, p := range []string{f.Node.Root, f.Node.State, filepath.Join(f.Node.State, "netns")} {
			if p = filepath.Join(p, "self-test"); there(p) {
				list = append(list, p)
			}
		}
		return list
	}
	spoil() // so that every question has the self-test run
	for round := range 12 {
		becomes(t, f, false) // the start's own self-test says so already, after the first
		_ = runtimeReady(t, f)
		if round%2 == 0 {
			f.Node.Kill()
		} else if err := f.Node.Stop(); err != nil {
			t.Fatal(err)
		} else if l := left(); len(l) > 0 {
			t.Errorf("left by a daemon that was stopped: %v", l)
		}
		if err := f.Node.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, "nothing of a self-test", func() bool { return len(left()) == 0 })
	}
	mend()
	becomes(t, f, true)
	f.Done(t)
}

// TestNotReadyOnFullDisk: nothing can be recorded on a full disk.
func TestNotReadyOnFullDisk(t *testing.T) {
	var root string
	umount := func() error { return exec.Command("umount", "-l", root).Run() }
	f := node.Open(t, "", func(w *node.World) {
		root = filepath.Join(w.Dir, "berth", "root")
		if err := os.MkdirAll(root, 0o711); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=128m,mode=0711", "test", root).CombinedOutput(); err != nil {
			t.Fatalf("mount: %v: %s", err, out)
		}
		t.Cleanup(func() { _ = umount() }) // when the test did not come to it
	})
	mounted := true
	end := func() {
		if err := f.Node.Stop(); err != nil {
			t.Error(err)
		}
		if err := umount(); err != nil {
			t.Errorf("umount: %v", err)
		}
		mounted = false
	}
	t.Cleanup(func() { // before the node's folders go
		if mounted {
			end()
		}
	})
	filler := filepath.Join(root, "filler")
	unfit(t, f, root, func() {
		file, err := os.Create(filler)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		for _, size := range []int{1 << 20, 4096, 1} {
			block := make([]byte, size)
			for err = nil; err == nil; {
				_, err = file.Write(block)
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
		}
	}, func() {
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	})
	f.Done(t)
	end()
}
