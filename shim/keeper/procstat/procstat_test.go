package procstat

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	const text = "12 (a) b (c) Z 7 1 3 0 -1 4228108 0 0 0 0 0 0 0 0 20 0 1 0 987654 0 0\n"
	if s := parse([]byte(text)); s != (Stat{State: 'Z', Parent: 7, Session: 3, Began: 987654, flags: 4228108}) || !s.IsZombie() || !s.IsExiting() {
		t.Errorf("%+v", s)
	}
	for state, stopped := range map[string]bool{"T": true, "t": true, "S": false, "Z": false} {
		if s := parse([]byte(strings.Replace(text, "Z", state, 1))); s.IsStopped() != stopped {
			t.Errorf("%s: %+v", state, s)
		}
	}
	for _, bad := range []string{"", ")", "12 (sh) S 1"} {
		if s := parse([]byte(bad)); s != (Stat{}) || !s.IsExiting() {
			t.Errorf("%q: %+v", bad, s)
		}
	}
}

// A child is one until it is reaped.
func TestChild(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	if s := Read(pid); s.Parent != os.Getpid() || s.Began == 0 || s.IsZombie() || s.IsExiting() {
		t.Errorf("%+v", s)
	}
	if !slices.Contains(Children(), pid) {
		t.Errorf("%d is not among %v", pid, Children())
	}
	in.Close()
	for !Read(pid).IsZombie() && t.Context().Err() == nil {
		time.Sleep(time.Millisecond)
	}
	Reap(pid)
	if s := Read(pid); s != (Stat{}) || slices.Contains(Children(), pid) {
		t.Errorf("it was reaped: %+v", s)
	}
	_ = cmd.Wait() // there is nothing to wait for any more
}
