package main

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthd/berth/test/bench/counter"
)

// TestBaseline measures, and fails for what has become dearer than it may be.
func TestBaseline(t *testing.T) {
	if testing.Short() {
		t.Skip("long, and needs root")
	}
	stored, err := read(file)
	if err != nil {
		t.Fatal(err)
	}
	m, err := measure(t.Context(), defaultTurns)
	if err != nil {
		t.Fatal(err)
	}
	found := compare(m, stored)
	for _, f := range found {
		if f.dearer {
			t.Error(f)
		}
	}
	t.Logf("\n%s", table(found).Text())
}

func TestCompare(t *testing.T) {
	const at = 1 // system calls
	name := figures()[at].name
	limit := figures()[at].limit(100)
	tests := []struct {
		name            string
		stored          map[string]float64
		now             float64
		without         error
		dearer, cheaper bool
		says            string
	}{
		{"the same", map[string]float64{name: 100}, 100, nil, false, false, ""},
		{"as much as is allowed", map[string]float64{name: 100}, limit, nil, false, false, ""},
		{"half as much again", map[string]float64{name: 100}, 150, nil, true, false, "150"},
		{"half", map[string]float64{name: 100}, 50, nil, false, true, ""},
		{"nothing to compare with", nil, 100, nil, true, false, "nothing is stored"},
		{"it cannot be counted here", map[string]float64{name: 100}, 0, counter.ErrUnavailable, false, false, counter.ErrUnavailable.Error()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := measured{values: map[string]float64{name: tt.now}, without: map[counter.Event]error{figures()[at].event: tt.without}}
			got := compare(m, tt.stored)[at]
			if got.dearer != tt.dearer || got.cheaper != tt.cheaper || !strings.Contains(got.String(), tt.says) {
				t.Errorf("dearer %t, cheaper %t, %s", got.dearer, got.cheaper, got)
			}
		})
	}
}

func TestStore(t *testing.T) {
	m := measured{values: map[string]float64{}, without: map[counter.Event]error{}}
	for i, f := range figures() {
		m.values[f.name] = float64(i) + 0.123
	}
	path := filepath.Join(t.TempDir(), file)
	if err := store(path, m); err != nil {
		t.Fatal(err)
	}
	stored, err := read(path)
	if err != nil || len(stored) != len(figures()) || stored[figures()[1].name] != 1.12 {
		t.Errorf("%v, %v", stored, err)
	}
	m.without[counter.Syncs] = counter.ErrUnavailable
	if err := store(path, m); !errors.Is(err, counter.ErrUnavailable) {
		t.Errorf("%v, want that one of them is not counted", err)
	}
}
