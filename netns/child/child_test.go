package child

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestRun: what a program says is kept up to a limit, also when something that it has left holds its output, and the
// error is its own.
func TestRun(t *testing.T) {
	for _, tt := range []struct {
		name, script, out, said string
		code                    int
	}{
		{"all is well", "cat; echo no >&2", "input", "no\n", 0},
		{"it fails", "echo why >&2; exit 3", "", "why\n", 3},
		{"it says much", "head -c 100000 /dev/zero | tr '\\0' a", strings.Repeat("a", 1000), "", 0},
		{"it leaves something", "setsid sleep 1000 & echo $! >pid; echo done", "done\n", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			defer exec.Command("sh", "-c", "kill $(cat pid)").Run()
			out, said, err := Program{Path: "/bin/sh", Args: []string{"-c", tt.script}, Input: []byte("input"), Limit: 1000}.Run(t.Context())
			code := 0
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				code = exit.ExitCode()
			}
			if string(out) != tt.out || string(said) != tt.said || code != tt.code || (err == nil) != (code == 0) {
				t.Errorf("%.20q, %.20q, %v", out, said, err)
			}
		})
	}
}

// TestKilled: when ctx ends, the program and what it has started end.
func TestKilled(t *testing.T) {
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	go func() { // once it runs
		if _, err := read.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		cancel(cause)
	}()
	_, _, err = Program{Path: "/bin/sh", Args: []string{"-c", "sleep 1000 & echo >&3; wait"}, Lock: write}.Run(ctx)
	if !errors.Is(err, cause) {
		t.Error(err)
	}
	write.Close()
	_ = read.SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := read.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) { // the last who has the other end is gone
		t.Errorf("%d, %v", n, err)
	}
}
