package keeper

import (
	"os"
	"os/exec"
	"testing"

	"github.com/berthd/berth/shim/keeper/container"
	"github.com/berthd/berth/shim/keeper/pidfd"
)

type startedProcess struct{ cmd *exec.Cmd }

func (p startedProcess) Pid() int { return p.cmd.Process.Pid }

func (p startedProcess) Wait() *os.ProcessState { return p.cmd.ProcessState }

// deadChild returns a child that has died and not been waited for.
func deadChild(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h, err := pidfd.Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	h.WaitEnd()
	return cmd
}

// The nursery takes only what nobody waits for.
func TestNursery(t *testing.T) {
	n := newNursery()
	started := deadChild(t)
	_, err := n.start(func() (container.Process, error) {
		inner := deadChild(t) // as libcontainer's are while it starts a process
		if n.reap() {
			t.Error("it reaped while a process was being started")
		}
		if err := inner.Wait(); err != nil {
			t.Errorf("a child of the start: %v", err)
		}
		return startedProcess{started}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	orphan := deadChild(t)
	if !hasZombie() {
		t.Error("no zombie seen")
	}
	if !n.reap() {
		t.Error("it did not reap")
	}
	if err := orphan.Wait(); err == nil {
		t.Error("the orphan was not reaped")
	}
	if err := started.Wait(); err != nil {
		t.Errorf("a known child: %v", err)
	}
	n.done(started.Process.Pid)
	if hasZombie() {
		t.Error("a zombie is left")
	}
}
