package sandbox

import (
	"cmp"
	"slices"
	"time"
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
	name := func(p *Pod) string {
		m := p.Record().Config().GetMetadata()
		return m.GetNamespace() + "/" + m.GetName()
	}
	for _, p := range n.Pods.table.named() {
		add(&p.turn, Operation{Object: "pod", ID: p.Record().ID, Name: name(p)}, &p.trace)
	}
	for _, c := range n.Containers.table.named() {
		add(&c.turn, Operation{Object: "container", ID: c.Record().ID, Name: name(c.pod) + "/" + c.Record().Config().GetMetadata().GetName()}, &c.trace)
	}
	slices.SortFunc(list, func(a, b Operation) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID)) })
	return list[:min(len(list), underWayMost)]
}
