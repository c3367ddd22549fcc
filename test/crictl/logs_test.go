package crictl

import (
	"bufio"
	"context"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// A running crictl is one that prints as things happen.
type running struct {
	cmd   *exec.Cmd
	lines chan string
	end   func() // kills it; may be called again
}

// begin starts crictl and reads what it prints, line by line. The test's end
// kills it.
func (s *suite) begin(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := s.command(ctx, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := &running{cmd: cmd, lines: make(chan string, 100)}
	go func() {
		defer close(r.lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			r.lines <- scan.Text()
		}
	}()
	r.end = sync.OnceFunc(func() {
		cancel()
		for range r.lines { // to the end, so that the reader ends
			continue
		}
		_ = cmd.Wait()
	})
	t.Cleanup(r.end)
	return r
}

// line waits for a line that contains want.
func (r *running) line(t *testing.T, want string) string {
	t.Helper()
	var seen []string
	for end := time.After(time.Minute); ; {
		select {
		case l, ok := <-r.lines:
			if !ok {
				t.Fatalf("%s ended without %q:\n%s", r.cmd.Args[3], want, strings.Join(seen, "\n"))
			}
			if strings.Contains(l, want) {
				return l
			}
			seen = append(seen, l)
		case <-end:
			t.Fatalf("%s: no %q:\n%s", r.cmd.Args[3], want, strings.Join(seen, "\n"))
		}
	}
}

// TestLogsFollow follows a log to its container's end.
func TestLogsFollow(t *testing.T) {
	s := open(t)
	_, id := s.start(t, "follow", "echo one; until [ -e /release ]; do sleep 0.02; done; echo two", nil)
	f := s.begin(t, "logs", "-f", id)
	f.line(t, "one")
	s.run(t, "exec", "-s", id, "touch", "/release")
	f.line(t, "two")
	for l := range f.lines {
		t.Logf("more: %s", l)
	}
	s.Done(t)
}
