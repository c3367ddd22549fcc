package keeper

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// A gate counts what is under way that must come to its end before another program takes
// over, and holds back what comes while it is shut. The zero value is open.
type gate struct {
	mu      sync.Mutex
	inside  map[string]int // by what it is
	streams int            // commands and attachments among them: they may take for ever
	barrier chan struct{}  // not nil while the gate is shut; closed when it is opened
	emptied chan struct{}  // closed when nothing is inside of a gate that is shut
}

// A passage is what goes through a gate.
type passage int

const (
	aCall passage = iota
	aStream
	anEnd // of a container: who is inside may wait for it, so it comes in until all are out
)

// enter waits while the gate is shut. The caller calls leave, which may be repeated.
func (g *gate) enter(ctx context.Context, what string, kind passage) (leave func(), err error) {
	stream := kind == aStream
	for {
		g.mu.Lock()
		barrier := g.barrier
		if barrier == nil || kind == anEnd && len(g.inside) > 0 {
			break
		}
		g.mu.Unlock()
		select {
		case <-barrier:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	defer g.mu.Unlock()
	if g.inside == nil {
		g.inside = map[string]int{}
	}
	g.count(what, stream, 1)
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.count(what, stream, -1)
		if g.emptied != nil && len(g.inside) == 0 {
			close(g.emptied)
			g.emptied = nil
		}
	}), nil
}

func (g *gate) count(what string, stream bool, d int) {
	if g.inside[what] += d; g.inside[what] == 0 {
		delete(g.inside, what)
	}
	if stream {
		g.streams += d
	}
}

// shut closes the gate once nothing is inside. When there are streams, or the rest does not
// end within limit, the gate stays open, and waitsFor says what is inside.
func (g *gate) shut(ctx context.Context, limit time.Duration) (waitsFor string) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	g.mu.Lock()
	if g.barrier != nil {
		g.mu.Unlock()
		return "another upgrade"
	}
	if g.streams > 0 {
		defer g.mu.Unlock()
		return g.describe()
	}
	g.barrier = make(chan struct{})
	emptied := make(chan struct{})
	if len(g.inside) == 0 {
		close(emptied)
	} else {
		g.emptied = emptied
	}
	g.mu.Unlock()
	select {
	case <-emptied:
		return ""
	case <-ctx.Done():
	}
	g.mu.Lock()
	waitsFor = g.describe()
	g.mu.Unlock()
	g.open()
	return waitsFor
}

// open opens a gate that is shut.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.barrier != nil {
		close(g.barrier)
		g.barrier, g.emptied = nil, nil
	}
}

// describe says what is inside.
func (g *gate) describe() string {
	var list []string
	for what, n := range g.inside {
		if n > 1 {
			what = fmt.Sprintf("%s (%d)", what, n)
		}
		list = append(list, what)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// streaming is how many streams are inside.
func (g *gate) streaming() uint32 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return uint32(g.streams)
}
