package counter_test

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/berthd/berth/test/bench/counter"
)

// TestStart has a shell start programs, directly and in the background, and other children
// of this process that must not count.
func TestStart(t *testing.T) {
	dir := t.TempDir()
	other := exec.Command("sh", "-c", "while read -r x; do /bin/true; done")
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `read -r x; /bin/true; (/bin/true; sync "$1") & wait; /bin/true; read -r x`, "sh", dir)
	mine, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	events := []counter.Event{counter.Programs, counter.Syncs, counter.Syscalls, counter.CPU, counter.Switches, counter.Opens}
	c, err := counter.Start(cmd.Start, events...)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if err := c.Available(e); err != nil {
			t.Fatalf("event %d: %v", e, err)
		}
	}
	if _, err := in.Write([]byte("a\nb\nc\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := mine.Write([]byte("a\n")); err != nil {
		t.Fatal(err)
	}
	in.Close()
	mine.Close()
	for _, child := range []*exec.Cmd{other, cmd} {
		if err := child.Wait(); err != nil && child == other {
			t.Fatal(err)
		}
	}
	for _, want := range []struct {
		name        string
		event       counter.Event
		least, most int64
	}{
		{"programs", counter.Programs, 5, 5}, // sh, true, true, sync, true
		{"waits for the disk", counter.Syncs, 1, 1},
		{"system calls", counter.Syscalls, 50, 5000},
		{"nanoseconds", counter.CPU, 100_000, 5_000_000_000},
		{"times to stop running", counter.Switches, 5, 1000},
		{"files", counter.Opens, 5, 1000},
	} {
		if n, err := c.Read(want.event); err != nil || n < want.least || n > want.most {
			t.Errorf("%s: %d, %v, want %d to %d", want.name, n, err, want.least, want.most)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestStartFails(t *testing.T) {
	want := os.ErrInvalid
	if _, err := counter.Start(func() error { return want }, counter.CPU); !errors.Is(err, want) {
		t.Errorf("%v, want %v", err, want)
	}
}
