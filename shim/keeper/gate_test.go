package keeper

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestGate(t *testing.T) {
	var g gate
	enter := func(what string, kind passage) func() {
		t.Helper()
		leave, err := g.enter(t.Context(), what, kind)
		if err != nil {
			t.Fatal(err)
		}
		return leave
	}
	one, other, exec := enter("Create", aCall), enter("Create", aCall), enter("exec", aStream)
	if n := g.streaming(); n != 1 {
		t.Errorf("%d streams", n)
	}
	if waits := g.shut(t.Context(), time.Hour); waits != "Create (2), exec" {
		t.Errorf("waits for %q", waits)
	}
	exec()
	exec() // once is enough
	if waits := g.shut(t.Context(), time.Nanosecond); waits != "Create (2)" {
		t.Errorf("waits for %q", waits)
	}
	enter("Kill", aCall)() // it is open
	one()
	shut := make(chan string)
	go func() { shut <- g.shut(t.Context(), time.Hour) }()
	for closed := false; !closed; { // until it is
		g.mu.Lock()
		closed = g.barrier != nil
		g.mu.Unlock()
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.enter(ended, "Kill", aCall); !errors.Is(err, context.Canceled) {
		t.Errorf("enter = %v", err)
	}
	if waits := g.shut(t.Context(), time.Hour); waits != "another upgrade" {
		t.Errorf("waits for %q", waits)
	}
	end := enter("an end", anEnd) // which the call waits for
	other()
	end()
	if waits := <-shut; waits != "" {
		t.Errorf("waits for %q", waits)
	}
	if _, err := g.enter(ended, "an end", anEnd); !errors.Is(err, context.Canceled) { // all are out
		t.Errorf("enter = %v", err)
	}
	late := make(chan func())
	go func() {
		leave, _ := g.enter(t.Context(), "Kill", aCall)
		late <- leave
	}()
	g.open()
	(<-late)()
	if waits := g.shut(t.Context(), time.Hour); waits != "" {
		t.Errorf("waits for %q", waits)
	}
}
