package sandbox

import (
	"context"
	"sync"
	"time"

	"github.com/berthd/berth/held"
)

// A Stage is one named, timed part of an operation, for `berth why`, logs and
// error texts.
type Stage struct {
	Name     string        `json:"name"`
	Start    time.Time     `json:"start"`
	Duration time.Duration `json:"duration_ns"` // 0 while it is under way
	Error    string        `json:"error,omitempty"`
}

// A StageObserver is told of every stage that has ended: of a creation, a start or a
// removal of a "pod" or a "container". Names of stages are a fixed few. It is called from
// several goroutines and must not wait.
type StageObserver interface {
	Stage(object, stage string, took time.Duration, err error)
}

// keptStages bounds what a Trace remembers: a teardown that is tried again and
// again must not grow without end.
const keptStages = 64

// A Trace is the stages of one pod or container, oldest first. It is safe for
// concurrent use.
type Trace struct {
	object   string        // what it is of, for observer
	observer StageObserver // nil: nobody

	mu     sync.Mutex
	stages []Stage
}

// Stages returns a copy of what has happened so far.
func (t *Trace) Stages() []Stage {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]Stage(nil), t.stages...)
}

// soFar is Stages for a record that is written within the last of them: one that is under way
// has taken what it has taken by now.
func (t *Trace) soFar() []Stage {
	stages := t.Stages()
	for i := range stages {
		if s := &stages[i]; s.Duration == 0 {
			s.Duration = max(time.Since(s.Start), 1)
		}
	}
	return stages
}

// Current names the stage under way, or "waiting" between stages.
func (t *Trace) Current() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := len(t.stages) - 1; i >= 0; i-- {
		if t.stages[i].Duration == 0 {
			return t.stages[i].Name
		}
	}
	return "waiting"
}

// accepted notes what came before a creation as a stage of its own: what is checked of the
// request, and the wait for the object's turn, since it was asked for.
func (t *Trace) accepted(asked time.Time) {
	took := max(time.Since(asked), 1)
	if t.observer != nil {
		t.observer.Stage(t.object, "accept", took, nil)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stages = append(t.stages, Stage{Name: "accept", Start: asked, Duration: took})
}

// run times do as a stage of that name, of ctx's operation.
func (t *Trace) run(ctx context.Context, name string, do func() error) error {
	defer held.Begin(ctx, held.Stage, name)()
	start := time.Now()
	t.mu.Lock()
	if len(t.stages) >= keptStages {
		t.stages = append(t.stages[:0], t.stages[len(t.stages)-keptStages/2:]...)
	}
	t.stages = append(t.stages, Stage{Name: name, Start: start})
	t.mu.Unlock()

	err := do()
	took := max(time.Since(start), 1)
	if t.observer != nil {
		t.observer.Stage(t.object, name, took, err)
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	for i := len(t.stages) - 1; i >= 0; i-- {
		if s := &t.stages[i]; s.Name == name && s.Start.Equal(start) {
			s.Duration = took
			if err != nil {
				s.Error = err.Error()
			}
			break
		}
	}
	return err
}
