package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/test/node"
)

// TestFaults has berth meet each fault once, without times, several side by side.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("long, and needs root")
	}
	w, err := newWorld(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	beside := func(name, extra string) (*node.Node, error) {
		n, err := w.berth(name, extra)
		if err == nil {
			n.Beside = true
		}
		return n, err
	}
	for _, f := range faults() {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel() // each has a node and pods' names of its own
			r, err := w.fault(t.Context(), f, beside, setting{turns: 1, pods: 2})
			if err != nil {
				t.Error(err)
			}
			for _, failure := range r.failures {
				t.Error(failure)
			}
			t.Log(r.line())
		})
	}
}

// TestRatio is of p99s, turn by turn, and leaves out a turn in which the others were stuck.
func TestRatio(t *testing.T) {
	const s = time.Second
	r := &result{
		quiet:  [][]time.Duration{{s, s}, {2 * s, 2 * s}, {s, s}, {s, s}},
		faulty: [][]time.Duration{{2 * s, 2 * s}, {2 * s, 2 * s}, {9 * s}, {3 * s, 3 * s}},
	}
	if got := r.ratio(); got != 2 {
		t.Errorf("%v, want 2, the median of 2, 1 and 3", got)
	}
	if got := (&result{runtime: "x", quiet: r.quiet[:1], faulty: [][]time.Duration{nil}}).cells()[1]; got != "stuck" {
		t.Errorf("of pods that are stuck: %q", got)
	}
}

// TestPublish replaces what is between the markers and nothing else.
func TestPublish(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("above\n" + beginMark + "\nold\n" + endMark + "\nbelow\n")
	for range 2 {
		if err := publish(path, "new\n"); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if want := "above\n" + beginMark + "\n\nnew\n\n" + endMark + "\nbelow\n"; err != nil || string(data) != want {
			t.Errorf("%v, %q, want %q", err, data, want)
		}
	}
	write("no markers\n")
	if err := publish(path, "new\n"); err == nil || !strings.Contains(err.Error(), beginMark) {
		t.Errorf("without markers: %v", err)
	}
}

// TestTry repeats a call until it succeeds, keeps its last words and can be given up.
func TestTry(t *testing.T) {
	left := 2
	try1 := try(t.Context(), func(context.Context) error {
		if left--; left > 0 {
			return errors.New("not yet")
		}
		return nil
	})
	if err := try1.wait(t.Context(), time.Minute); err != nil || try1.said() != "" {
		t.Errorf("%v, %q", err, try1.said())
	}
	try2 := try(t.Context(), func(ctx context.Context) error { return errors.New("never") })
	if err := try2.wait(t.Context(), 0); err == nil {
		t.Error("given up, and no error")
	}
}

// TestOptions knows the faults by their names.
func TestOptions(t *testing.T) {
	if o, err := options([]string{"-only", "cni-hangs,disk-full"}); err != nil || !slices.Equal(o.only, []string{"cni-hangs", "disk-full"}) {
		t.Errorf("%+v, %v", o, err)
	}
	for _, args := range [][]string{{"-only", "nothing"}, {"-turns", "0"}, {"extra"}} {
		if _, err := options(args); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
}
