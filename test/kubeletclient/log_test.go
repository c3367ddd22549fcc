package kubeletclient

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"k8s.io/cri-client/pkg/logs"
)

// read reads a log as kubectl logs does, to its end.
func (s *suite) read(t *testing.T, ctx context.Context, path string, opts *logs.LogOptions) (stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	if err := logs.ReadLogs(ctx, path, "", opts, s.runtime, &out, &errOut); err != nil {
		t.Fatal(err)
	}
	return out.String(), errOut.String()
}

// TestLogs reads what kubelet's own parser makes of a log: both streams, a line
// of 100 kB that the log has in parts, an empty one, and one without an end.
func TestLogs(t *testing.T) {
	s, ctx := open(t)
	_, id, path := s.start(t, ctx, "logs", `echo first; echo other >&2; head -c 100000 /dev/zero | tr '\0' x; echo; echo; printf end`)
	s.follow(t, ctx, path, id).drain(t)
	long := strings.Repeat("x", 100000)
	out, errOut := s.read(t, ctx, path, &logs.LogOptions{})
	if want := "first\n" + long + "\n\nend"; strings.TrimSuffix(out, "\n") != want || errOut != "other\n" {
		t.Errorf("read %d and %d bytes; want %d and 6: %.60q, %q", len(out), len(errOut), len(want), out, errOut)
	}
	limit := int64(3)
	var three bytes.Buffer // the other stream is not asked for, so it does not count
	if err := logs.ReadLogs(ctx, path, "", &logs.LogOptions{LimitBytes: &limit}, s.runtime, &three, nil); err != nil || three.String() != "fir" {
		t.Errorf("3 bytes: %q, %v", three.String(), err)
	}
	out, _ = s.read(t, ctx, path, &logs.LogOptions{Timestamp: true})
	stamp, rest, _ := strings.Cut(out, " ")
	if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil || !strings.HasPrefix(rest, "first\n") {
		t.Errorf("time stamp %q: %v", stamp, err)
	}
	if out, errOut := s.read(t, ctx, path, &logs.LogOptions{Since: time.Now().Add(time.Hour)}); out+errOut != "" {
		t.Errorf("since later: %q", out+errOut)
	}
	s.Done(t)
}

// TestFollow follows a log while it is rotated as kubelet rotates it and while
// the daemon is away: no line is lost or comes twice, and the end of the
// container ends it.
func TestFollow(t *testing.T) {
	s, ctx := open(t)
	_, id, path := s.start(t, ctx, "follow", "echo one\n"+wait+"echo two; rm /release\n"+wait+"echo three")
	f := s.follow(t, ctx, path, id)
	f.line(t, "one")
	rotate(t, path)
	if err := s.runtime.ReopenContainerLog(ctx, id); err != nil {
		t.Fatal(err)
	}
	s.release(t, ctx, id)
	f.line(t, "two")
	if err := s.Node.Stop(); err != nil {
		t.Fatal(err)
	}
	f.stays(t) // kubelet asks for the status every second meanwhile, and is told Unavailable
	if err := s.Node.Start(ctx); err != nil {
		t.Fatal(err)
	}
	s.release(t, ctx, id)
	f.line(t, "three")
	f.drain(t)
	s.Done(t)
}

// A follower reads a log that grows.
type follower struct {
	lines *bufio.Reader
	done  chan error
}

// follow begins; the container's end ends it.
func (s *suite) follow(t *testing.T, ctx context.Context, path, id string) *follower {
	t.Helper()
	r, w := io.Pipe()
	f := &follower{lines: bufio.NewReader(r), done: make(chan error, 1)}
	go func() {
		err := logs.ReadLogs(ctx, path, id, &logs.LogOptions{Follow: true}, s.runtime, w, io.Discard)
		f.done <- err
		_ = w.CloseWithError(io.EOF)
	}()
	return f
}

// line expects the next line.
func (f *follower) line(t *testing.T, want string) {
	t.Helper()
	got, err := f.lines.ReadString('\n')
	if err != nil || strings.TrimSuffix(got, "\n") != want {
		t.Fatalf("followed %q, %v; want %q", got, err, want)
	}
}

// stays expects the follower to go on for longer than it waits between looks at
// the container's state.
func (f *follower) stays(t *testing.T) {
	t.Helper()
	select {
	case err := <-f.done:
		t.Fatalf("the follower ended: %v", err)
	case <-time.After(2500 * time.Millisecond):
	}
}

// drain reads to the end, which comes with the container's.
func (f *follower) drain(t *testing.T) {
	t.Helper()
	if _, err := io.Copy(io.Discard, f.lines); err != nil {
		t.Fatal(err)
	}
	if err := <-f.done; err != nil {
		t.Fatalf("follow: %v", err)
	}
}

// rotate moves the log away, as kubelet does before it asks for a new one.
func rotate(t *testing.T, path string) {
	t.Helper()
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
}
