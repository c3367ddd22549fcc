package sandbox

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// world is what the steps of a test make; the value tells how often.
type world map[string]int

// worldSteps are named steps over a world. The step called bad fails: before its
// effect, or after it when late. The undo called stuck fails.
func worldSteps(names []string, bad string, late bool, stuck string) []step[world] {
	errBoom := errors.New("boom")
	var steps []step[world]
	for _, name := range names {
		steps = append(steps, step[world]{
			name: name,
			do: func(_ context.Context, w world) error {
				if name == bad && !late {
					return errBoom
				}
				w[name]++
				if name == bad {
					return errBoom
				}
				return nil
			},
			undo: func(ctx context.Context, w world) error {
				if name == stuck {
					return errors.New("cannot undo")
				}
				delete(w, name)
				return ctx.Err()
			},
		})
	}
	return steps
}

var stepNames = []string{"record", "files", "namespaces", "network", "holder", "ready"}

// Each step fails in turn, before and after its effect, with a caller that has
// gone: the world must be as it was.
func TestBuildRollsBack(t *testing.T) {
	for _, bad := range stepNames {
		for _, late := range []bool{false, true} {
			w := world{}
			ctx, cancel := context.WithCancel(t.Context())
			steps := worldSteps(stepNames, bad, late, "")
			steps[0].do = func(_ context.Context, w world) error {
				defer cancel()
				w["record"]++
				if bad == "record" {
					return errors.New("boom")
				}
				return nil
			}
			left, err := build(ctx, w, &Trace{}, steps)
			if err == nil || left != nil {
				t.Errorf("%s late=%t: build = %v, %v; want a clean failure", bad, late, left, err)
			}
			if len(w) != 0 {
				t.Errorf("%s late=%t: left behind: %v", bad, late, w)
			}
		}
	}
}

func TestBuildSaysWhereItFailed(t *testing.T) {
	_, err := build(t.Context(), world{}, &Trace{}, worldSteps(stepNames, "network", true, ""))
	if err == nil || !strings.HasPrefix(err.Error(), "network: boom") {
		t.Errorf("build = %v, want the step's name first", err)
	}
}

// A rollback that fails must leave the earlier steps alone: they may hold what
// the failed one needs.
func TestBuildStuck(t *testing.T) {
	w := world{}
	left, err := build(t.Context(), w, &Trace{}, worldSteps(stepNames, "holder", true, "network"))
	if left == nil || err == nil {
		t.Fatalf("build = %v, %v; want stuck", left, err)
	}
	for _, name := range []string{"record", "files", "namespaces", "network"} {
		if w[name] == 0 {
			t.Errorf("%s was undone behind a step that could not be", name)
		}
	}
	if w["holder"] != 0 {
		t.Error("holder was not undone")
	}
}

func TestTeardownMayBeRepeated(t *testing.T) {
	w, steps := world{}, worldSteps(stepNames, "", false, "")
	if _, err := build(t.Context(), w, &Trace{}, steps); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := teardown(t.Context(), w, &Trace{}, steps); err != nil {
			t.Fatal(err)
		}
	}
	if len(w) != 0 {
		t.Errorf("left behind: %v", w)
	}
}

func TestTraceNamesTheStageUnderWay(t *testing.T) {
	var trace Trace
	_ = trace.run(t.Context(), "network", func() error {
		if got := trace.Current(); got != "network" {
			t.Errorf("Current = %q", got)
		}
		return errors.New("boom")
	})
	s := trace.Stages()
	if len(s) != 1 || s[0].Error != "boom" || s[0].Duration <= 0 {
		t.Errorf("Stages = %+v", s)
	}
	for range 10 * keptStages {
		_ = trace.run(t.Context(), "again", func() error { return nil })
	}
	if n := len(trace.Stages()); n > keptStages {
		t.Errorf("%d stages kept, want at most %d", n, keptStages)
	}
}
