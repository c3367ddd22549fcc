package sandbox

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// A Failure is a creation that failed: nothing is left of it that could be asked why.
type Failure struct {
	Object string    `json:"object"` // "pod" or "container"
	ID     string    `json:"id"`     // of the last try; "" when it was refused before it had one
	Name   string    `json:"name"`   // as an Operation's
	At     time.Time `json:"at"`     // of the last try
	Times  int       `json:"times"`  // that it failed without a success between
	Error  string    `json:"error"`
	Stages []Stage   `json:"stages,omitempty"`
}

const (
	maxFailures    = 50        // kept, the last ones
	maxFailureText = 2 << 10   // bytes of one error: plugins and images have a say in it
	failureFor     = time.Hour // after that it is nobody's question any more
)

// failures are the last creations that failed, one for each name. The zero value has none.
type failures struct {
	mu   sync.Mutex
	list []Failure // oldest first
}

// note notes how a creation has ended: a success ends the failures of its name.
// trace has its stages, and may be nil.
func (f *failures) note(o Failure, trace *Trace, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := slices.IndexFunc(f.list, func(g Failure) bool { return g.Object == o.Object && g.Name == o.Name })
	if at >= 0 {
		o.Times = f.list[at].Times
		f.list = slices.Delete(f.list, at, at+1)
	}
	if err == nil {
		return
	}
	f.list = slices.DeleteFunc(f.list, func(g Failure) bool { return time.Since(g.At) > failureFor })
	o.Times++
	o.At, o.Error = time.Now().UTC(), clipped(err.Error())
	if trace != nil {
		o.Stages = trace.Stages()
	}
	for i := range o.Stages {
		o.Stages[i].Error = clipped(o.Stages[i].Error)
	}
	if len(f.list) >= maxFailures {
		f.list = slices.Delete(f.list, 0, 1)
	}
	f.list = append(f.list, o)
}

func clipped(text string) string {
	return strings.Clone(strings.ToValidUTF8(text[:min(len(text), maxFailureText)], "")) // or all of it is kept
}

// Failures lists the creations of pods and containers that failed within the last hour and have
// not succeeded since, the newest first, at most 50.
func (n *Node) Failures() []Failure { return n.Pods.failures.since(time.Now().Add(-failureFor)) }

func (f *failures) since(t time.Time) []Failure {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(f.list), func(o Failure) bool { return o.At.Before(t) })
	slices.Reverse(list)
	return list
}
