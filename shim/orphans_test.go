package shim_test

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/berthd/berth/shim"
	"github.com/berthd/berth/shim/keeper/procstat"
)

// A dead child of ours is left to whoever started it; one of another session is a shim's, whatever
// cgroup it died in.
func TestOrphan(t *testing.T) {
	session := procstat.Read(os.Getpid()).Session
	for _, another := range []bool{false, true} {
		cmd := exec.Command("cat")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: another}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid := cmd.Process.Pid
		if shim.IsOrphan(pid, session) {
			t.Error("it lives, and is an orphan")
		}
		in.Close()
		eventually(t, "end of a child", func() bool { return procstat.Read(pid).IsZombie() })
		if shim.IsOrphan(pid, session) != another {
			t.Errorf("of another session: %v: it is told wrongly", another)
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}
