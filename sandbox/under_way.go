package sandbox

import (
	"cmp"
	"slices"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// An Operation is something that is being done to a pod or a container, and has not come to
// its end for a while.
type Operation struct {
	Object    string    `json:"object"` // "pod" or "container"
	ID        string    `json:"id"`     // the object's
	Name      string    `json:"name"`   // namespace/name of a pod, namespace/name/container of a container
	Operation string    `json:"operation"`
	Stage     string    `json:"stage"` // where it is
	Since     time.Time `json:"since"`
}

const (
	underWayAfter = time.Second // what takes no longer is nobody's trouble
	underWayMost  = 200         // operations told at once, the oldest: Status tells them in one message
)

// UnderWay lists the operations on pods and containers that have been under way for more than
// a second, oldest first, at most 200. A creation is among them: its pod is not listed yet.
func (n *Node) UnderWay() []Operation { return n.underWay(time.Now()) }

func (n *Node) underWay(now time.Time) (list []Operation) {
	add := func(t *turn, o Operation, trace *Trace) {
		kind, since := t.now()
		if kind == "" || now.Sub(since) < underWayAfter {
			return
		}
		o.Operation, o.Since, o.Stage = kind, since.UTC(), trace.Current()
		list = append(list, o)
	}
	for _, p := range n.Pods.table.named() {
		add(&p.turn, Operation{Object: "pod", ID: p.Record().ID, Name: p.shownName()}, &p.trace)
	}
	for _, c := range n.Containers.table.named() {
		o := Operation{Object: "container", ID: c.Record().ID, Name: c.shownName()}
		add(&c.turn, o, &c.trace)
		if stage, since := c.stops.now(); stage != "" && now.Sub(since) >= underWayAfter {
			o.Operation, o.Stage, o.Since = "stop", stage, since.UTC()
			list = append(list, o)
		}
	}
	slices.SortFunc(list, func(a, b Operation) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID)) })
	return list[:min(len(list), underWayMost)]
}

// shownName is a pod's name as people write it.
func shownName(m *runtimeapi.PodSandboxMetadata) string { return m.GetNamespace() + "/" + m.GetName() }

func (p *Pod) shownName() string { return shownName(p.Record().Config().GetMetadata()) }

func (c *Container) shownName() string {
	return c.pod.shownName() + "/" + c.Record().Config().GetMetadata().GetName()
}

// stops are the calls that wait for a container to stop. The zero value has none.
type stops struct {
	mu    sync.Mutex
	calls int
	since time.Time // of the first of them
	stage string    // of the last that got further
}

// begin counts a call in; what it returns counts it out.
func (s *stops) begin() (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls++; s.calls == 1 {
		s.since, s.stage = time.Now(), "begin"
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.calls--
	}
}

// at says how far a call has got.
func (s *stops) at(stage string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stage = stage
}

// now is the stage and since when, "" without a call.
func (s *stops) now() (stage string, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls == 0 {
		return "", time.Time{}
	}
	return s.stage, s.since
}
