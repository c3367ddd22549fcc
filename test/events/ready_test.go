package events

import (
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

// TestNotReadyWithoutShim: a shim that is no program any more makes the node unfit
// until there is one again.
func TestNotReadyWithoutShim(t *testing.T) {
	shim := filepath.Join(t.TempDir(), "berth-shim")
	f := node.Open(t, "", func(w *node.World) {
		bin, err := filepath.Abs(filepath.Join(w.Repo, "bin"))
		if b := os.Getenv("BERTH_BIN"); b != "" {
			bin, err = b, nil
		}
		data, readErr := os.ReadFile(filepath.Join(bin, "berth-shim"))
		if err := errors.Join(err, readErr, os.WriteFile(shim, data, 0o755),
			os.Symlink(filepath.Join(bin, "berthd"), filepath.Join(filepath.Dir(shim), "berthd"))); err != nil {
			t.Fatal(err)
		}
		t.Setenv("BERTH_BIN", filepath.Dir(shim))
	})
	rename := func(from, to string) {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	unfit(t, f, shim, func() {
		if err := os.WriteFile(shim+".bad", []byte("no program"), 0o755); err != nil {
			t.Fatal(err)
		}
		rename(shim, shim+".good")
		rename(shim+".bad", shim)
	}, func() { rename(shim+".good", shim) })
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
