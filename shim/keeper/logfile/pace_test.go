package logfile

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestGapAfter(t *testing.T) {
	for _, c := range []struct {
		name    string
		gap     time.Duration
		n, room int64
		want    time.Duration
	}{
		{"little gathers", 0, 100, pipeSize, shortest},
		{"longer when it is still little", shortest, 100, pipeSize, 2 * shortest},
		{"but not for longer than a beat", beat, 100, pipeSize, beat},
		{"a part of the pipe is right", 4 * shortest, pipeSize / 4, pipeSize, 4 * shortest},
		{"a pipe that is half full is read sooner", 4 * shortest, pipeSize, pipeSize, 2 * shortest},
		{"and at once in the end", shortest, pipeSize, pipeSize, 0},
		{"what was enough for a small pipe is little for a big one", shortest, pipeSize / 4, bigPipe, 2 * shortest},
		{"no pipe", beat, 100, 0, 0},
	} {
		if got := gapAfter(c.gap, c.n, c.room); got != c.want {
			t.Errorf("%s: after %v and %d bytes of %d: %v, want %v", c.name, c.gap, c.n, c.room, got, c.want)
		}
	}
}

// A stream that says much all the time gets a bigger pipe, until it ends; not everybody does.
func TestBigPipe(t *testing.T) {
	r := newRig(t)
	r.openLog()
	pools := r.l.pools
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	s := r.l.streams[0]
	s.src.File = out
	now := time.Now()
	for i := range 3 * steady {
		if big := pools.big.Load(); i == steady-1 && big != 0 {
			t.Fatalf("after %d reads", i)
		}
		s.pace.last = now
		s.took(pipeSize-100, now.Add(beat))
	}
	if room, big := pipeRoom(out), pools.big.Load(); room != bigPipe || big != 1 {
		t.Errorf("the pipe holds %d, and %d are big", room, big)
	}
	text := strings.Repeat(strings.Repeat("x", 99)+"\n", 10*bigPipe/100)
	r.l.Start(0, Source{File: out})
	if _, err := w.WriteString(text); err != nil {
		t.Fatal(err)
	}
	w.Close()
	r.l.Wait(10 * time.Second)
	if content, _ := parse(t, r.read(), "stdout"); content != text {
		t.Errorf("%d bytes, want %d", len(content), len(text))
	}
	if big := pools.big.Load(); big != 0 {
		t.Errorf("%d are big at the end", big)
	}
	pools.big.Store(maxBig)
	other, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	defer w.Close()
	s = r.l.streams[1]
	s.src.File = other
	s.grow()
	if room, big := pipeRoom(other), pools.big.Load(); room != pipeSize || big != maxBig {
		t.Errorf("one more: it holds %d, and %d are big", room, big)
	}
}
