package logfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mount makes a file system of size at a new folder.
func mount(t *testing.T, size string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func resize(t *testing.T, dir, size string) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size="+size); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

// sayLines writes lines from to to, of 100 bytes each.
func (r *rig) sayLines(from, to int) {
	r.t.Helper()
	for from < to {
		var b strings.Builder
		for ; from < to && b.Len() < 60000; from++ {
			fmt.Fprintf(&b, "%099d\n", from)
		}
		r.say(0, b.String())
	}
}

// numbers checks that a log has all of sayLines' lines once and in their order, but for those
// that it says are missing where they are.
func numbers(t *testing.T, data []byte, want int, why string) (missing int) {
	t.Helper()
	note := regexp.MustCompile(`^berth: (\d+) lines \((\d+) bytes\) of this stream are missing here: (.*)$`)
	next := 0
	for text := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSuffix(text, "\n"), " ", 4)
		if len(f) != 4 || f[2] != "F" {
			t.Fatalf("not a whole line: %.80q", text)
		}
		if m := note.FindStringSubmatch(f[3]); m != nil {
			n, _ := strconv.Atoi(m[1])
			if size, _ := strconv.Atoi(m[2]); n == 0 || size != 100*n || m[3] != why {
				t.Fatalf("note %q", f[3])
			}
			next, missing = next+n, missing+n
			continue
		}
		n, err := strconv.Atoi(f[3])
		if err != nil || n != next {
			t.Fatalf("line %d is %.120q", next, text)
		}
		next++
	}
	if next != want {
		t.Errorf("%d lines, want %d", next, want)
	}
	return missing
}

// A full disk costs nothing while the spool has room, and what finds none is counted in its
// place. The container waits for nothing.
func TestFull(t *testing.T) {
	for _, tt := range []struct {
		lines int
		lost  bool
	}{{10000, false}, {60000, true}} {
		t.Run(strconv.Itoa(tt.lines), func(t *testing.T) {
			r := newRig(t)
			dir := mount(t, "256k")
			r.o.Path = filepath.Join(dir, "log")
			r.open()
			r.sayLines(0, tt.lines)
			resize(t, dir, "64m")
			eventually(t, "written again", func() bool {
				r.l.mu.Lock()
				defer r.l.mu.Unlock()
				return r.l.err == nil && r.l.heldLocked(0) == 0 && r.l.state.Streams[0].Gap.Why == noReason
			})
			r.sayLines(tt.lines, tt.lines+10)
			r.end()
			if lost := numbers(t, r.read(), tt.lines+10, unix.ENOSPC.Error()); lost > 0 != tt.lost {
				t.Errorf("%d lines are missing", lost)
			}
			r.l.Close()
		})
	}
}

// A file that is rotated while the disk is full ends with a whole record, and the next one
// goes on with the next.
func TestFullRotated(t *testing.T) {
	r := newRig(t)
	dir := mount(t, "64k")
	r.o.Path = filepath.Join(dir, "log")
	r.open()
	r.sayLines(0, 2000)
	eventually(t, "full", func() bool {
		r.l.mu.Lock()
		defer r.l.mu.Unlock()
		return r.l.err != nil
	})
	old := r.o.Path + ".1"
	if err := os.Rename(r.o.Path, old); err != nil {
		t.Fatal(err)
	}
	if err := r.l.Reopen(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := r.read(old)
	if len(first) == 0 || first[len(first)-1] != '\n' {
		t.Errorf("the old file ends within a record")
	}
	resize(t, dir, "64m")
	r.end()
	r.l.Wait(time.Minute)
	eventually(t, "written", func() bool { return bytes.Count(r.read(old, r.o.Path), []byte("\n")) >= 2000 })
	numbers(t, r.read(old, r.o.Path), 2000, "")
	r.l.Close()
}

// A write that hangs holds up the container for a while only, and neither its end nor a
// rotation for longer than they are ready to wait.
func TestHangs(t *testing.T) {
	r := newRig(t).open()
	r.l.turn <- struct{}{} // as a write has it
	r.sayLines(0, 60000)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.l.Reopen(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("reopen: %v", err)
	}
	for _, w := range r.w {
		w.Close()
	}
	r.l.Wait(time.Millisecond)
	<-r.l.turn
	r.end()
	if lost := numbers(t, r.read(), 60000, "the log is written too slowly"); lost == 0 {
		t.Error("nothing is missing")
	}
}

// What is more than the rate allows is counted, and the container does not wait.
func TestRate(t *testing.T) {
	r := newRig(t)
	r.o.Rate, r.o.Burst = 100_000, 200_000
	r.open()
	r.sayLines(0, 20000)
	r.end()
	lost := numbers(t, r.read(), 20000, "more than log.rate_limit allows")
	if lost == 0 || lost > 19000 {
		t.Errorf("%d lines are missing", lost)
	}
}

// A log that was removed, with its folder, is made again.
func TestRemoved(t *testing.T) {
	r := newRig(t).open()
	r.sayLines(0, 1)
	eventually(t, "written", func() bool { return len(r.read()) > 100 })
	if err := os.RemoveAll(filepath.Dir(r.o.Path)); err != nil {
		t.Fatal(err)
	}
	r.sayLines(0, 5)
	r.end()
	numbers(t, r.read(), 5, "")
}

// kubelet puts the old log back over the new one when it gets no answer to a rotation.
func TestPutBack(t *testing.T) {
	r := newRig(t).open()
	r.sayLines(0, 10)
	eventually(t, "written", func() bool { return bytes.Count(r.read(), []byte("\n")) == 10 })
	old := r.o.Path + ".1"
	if err := os.Rename(r.o.Path, old); err != nil {
		t.Fatal(err)
	}
	for range 2 { // again changes nothing
		if err := r.l.Reopen(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	r.sayLines(10, 20)
	eventually(t, "written", func() bool { return bytes.Count(r.read(), []byte("\n")) == 10 })
	if err := os.Rename(old, r.o.Path); err != nil {
		t.Fatal(err)
	}
	r.sayLines(20, 30)
	r.end()
	numbers(t, r.read(), 30, "")
}

// A state directory that is full sends output through memory.
func TestSpoolFull(t *testing.T) {
	r := newRig(t)
	r.o.Bundle = mount(t, "64k")
	r.open()
	r.l.turn <- struct{}{}
	r.sayLines(0, 5000)
	<-r.l.turn
	r.end()
	numbers(t, r.read(), 5000, "")
	r.l.Close()
}

// What a terminal says is logged too, and its hangup is no end while the process lives.
func TestTerminal(t *testing.T) {
	r := newRig(t)
	l, err := Open(r.o, NewPools())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	master := os.NewFile(uintptr(fd), "ptmx")
	defer master.Close()
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	l.Start(0, Source{File: master, Ended: r.ends})
	want := ""
	for i := range 3 {
		slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			t.Fatal(err)
		}
		for range 2000 {
			fmt.Fprintf(slave, "%d %050d\n", i, i)
			want += fmt.Sprintf("%d %050d\r\n", i, i)
		}
		slave.Close()
	}
	close(r.ends)
	l.Wait(time.Minute)
	if got, _ := parse(t, r.read(), "stdout"); got != want {
		t.Errorf("%d bytes, want %d", len(got), len(want))
	}
	if l.streams[0].src.Ferry == nil {
		t.Error("it was not spliced")
	}
}

// A log that cannot be opened when a successor goes on with it is written when it can.
func TestOpenedLater(t *testing.T) {
	r := newRig(t)
	dir := filepath.Join(t.TempDir(), "pod")
	r.o.Path = filepath.Join(dir, "log")
	r.open()
	r.sayLines(0, 10)
	r.end()
	r.l.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(r.o, NewPools()); err == nil {
		t.Fatal("a new container's log was opened in what is no folder")
	}
	r.o.Going = true
	r.open()
	r.sayLines(0, 100)
	if err := r.l.Reopen(t.Context()); err == nil {
		t.Error("reopened in what is no folder")
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	r.end()
	numbers(t, r.read(), 100, "")
	r.l.Close()
}
