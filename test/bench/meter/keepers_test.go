package meter_test

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/berthd/berth/test/bench/meter"
)

// TestKeepers has a process that names a folder, with a child called pause and another child.
func TestKeepers(t *testing.T) {
	dir := t.TempDir()
	pausing := filepath.Join(dir, "bin", "pause")
	for _, args := range [][]string{{"mkdir", filepath.Join(dir, "bin")}, {"cp", "/bin/sleep", pausing}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	cmd := exec.Command("sh", "-c", `cd "$(dirname "$0")"; ./pause 100 & sleep 100 & echo; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo; wait`, pausing)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		// The children first: the shell then ends by itself.
		pids, _ := meter.Keepers(dir)
		_ = exec.Command("pkill", "-P", strconv.Itoa(cmd.Process.Pid)).Run()
		_ = cmd.Wait()
		if left, err := meter.PSS(pids...); err != nil || left != 0 {
			t.Errorf("%d bytes of processes that have ended, %v", left, err)
		}
	}()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	before, err := meter.ActivityOf(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	after, err := meter.ActivityOf(cmd.Process.Pid)
	if did := after.Sub(before); err != nil || did.CPU < 5*time.Millisecond || did.Switches < 0 {
		t.Errorf("%+v, %v, want some CPU", did, err)
	}
	pids, err := meter.Keepers(dir)
	if err != nil || len(pids) != 2 || !slices.Contains(pids, cmd.Process.Pid) {
		t.Fatalf("%v, %v, want the shell, %d, and pause", pids, err, cmd.Process.Pid)
	}
	pss, err := meter.PSS(pids...)
	if err != nil || pss < 4096 || pss > 64<<20 {
		t.Errorf("%d bytes, %v", pss, err)
	}
}
