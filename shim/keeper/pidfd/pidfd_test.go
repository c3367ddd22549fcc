package pidfd_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/berthd/berth/shim/keeper/pidfd"
)

// process starts a process that lasts until its stdin is closed.
func process(t *testing.T) (*exec.Cmd, pidfd.Handle, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command("/bin/cat")
	cmd.Stdin = r
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h, err := pidfd.Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.Close()
		_ = cmd.Wait()
		h.Close()
	})
	return cmd, h, w
}

// Each end is told of once, and of no other, also when others have the process open.
func TestOnEnd(t *testing.T) {
	w, err := pidfd.NewWatch()
	if err != nil {
		t.Fatal(err)
	}
	const n = 40
	told := make(chan int, 4*n)
	var inputs []*os.File
	var handles []pidfd.Handle
	for i := range n {
		_, h, in := process(t)
		w.OnEnd(h, func() { told <- i })
		inputs, handles = append(inputs, in), append(handles, h)
	}
	for i := n - 1; i >= 0; i-- {
		inputs[i].Close()
		select {
		case got := <-told:
			if got != i {
				t.Errorf("told of %d, want %d", got, i)
			}
		case <-t.Context().Done():
			t.Fatalf("not told of %d", i)
		}
		if !handles[i].HasEnded() {
			t.Errorf("%d has not ended", i)
		}
	}
	w.OnEnd(handles[0], func() { told <- n }) // one that has ended
	w.OnEnd(pidfd.Handle{}, func() { told <- n })
	for range 2 {
		if got := <-told; got != n {
			t.Errorf("told of %d", got)
		}
	}
	if len(told) > 0 {
		t.Errorf("told of %d more", len(told))
	}
}
