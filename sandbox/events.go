package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ErrSlow ends the subscription of a reader that lets too many events pile up.
var ErrSlow = errors.New("events are not read fast enough; list what there is and subscribe again")

// An EventType is what has happened to a container, or to a pod, which is its
// own first container to those who read events (kubelet's evented PLEG).
type EventType int

// The types of events.
const (
	EventCreated EventType = iota
	EventStarted           // a pod: it is ready
	EventStopped           // a pod: it is not ready any more
	EventDeleted
)

// An Event says what happened, and how all of the pod was after it. It is shared
// between readers and must not be changed.
type Event struct {
	ID   string // of the container; of the pod itself when the event is about that
	Type EventType
	Snapshot
}

// A Snapshot is a pod and its containers at one time.
//
// Times of events and snapshots, At, are strictly increasing over all pods, so
// that a reader may order them: a snapshot shows every change with an event
// before At, and no snapshot with an earlier At shows more.
type Snapshot struct {
	Pod        PodRecord
	Containers []ContainerRecord // oldest first, and only those that are listed
	At         int64             // nanoseconds since 1970
}

// queuedEvents is how many events are kept for one reader.
const queuedEvents = 1024

// Events is where the node's events are read. Announcing one never waits for a
// reader, and costs next to nothing when there is none.
type Events struct {
	readers atomic.Int32

	mu     sync.Mutex
	last   int64                      // the latest time given out; guarded by mu
	subs   map[*Subscription]struct{} // guarded by mu
	closed bool                       // guarded by mu
}

// A Subscription is one reader of events. It is to be closed.
type Subscription struct {
	events *Events
	queue  chan *Event
	ended  chan struct{} // closed when err is set: there are no more events
	err    error
}

// Subscribe begins to read events: what is announced from now on.
func (e *Events) Subscribe() *Subscription {
	s := &Subscription{events: e, queue: make(chan *Event, queuedEvents), ended: make(chan struct{})}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		s.endLocked(ErrClosed)
		return s
	}
	if e.subs == nil {
		e.subs = map[*Subscription]struct{}{}
	}
	e.subs[s] = struct{}{}
	e.readers.Add(1)
	return s
}

// Close ends all subscriptions, with ErrClosed.
func (e *Events) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	for s := range e.subs {
		s.endLocked(ErrClosed)
	}
}

// Next waits for the next event. It fails with ErrSlow when events were lost,
// with ErrClosed when the daemon stops, or with the context's error.
func (s *Subscription) Next(ctx context.Context) (*Event, error) {
	select {
	case <-s.ended: // it counts more than what is queued
		return nil, s.err
	default:
	}
	select {
	case ev := <-s.queue:
		return ev, nil
	case <-s.ended:
		return nil, s.err
	case <-ctx.Done():
		return nil, fmt.Errorf("events: %w", ctx.Err())
	}
}

// Ended is closed when there are no more events; Next says why.
func (s *Subscription) Ended() <-chan struct{} { return s.ended }

// Close ends the subscription. It may be repeated.
func (s *Subscription) Close() {
	s.events.mu.Lock()
	defer s.events.mu.Unlock()
	s.endLocked(ErrClosed)
}

// endLocked also lets go of what is queued: nobody will read it.
func (s *Subscription) endLocked(err error) {
	if s.err != nil {
		return
	}
	s.err = fmt.Errorf("events: %w", err)
	close(s.ended)
	if _, ok := s.events.subs[s]; ok {
		delete(s.events.subs, s)
		s.events.readers.Add(-1)
	}
	for {
		select {
		case <-s.queue:
		default:
			return
		}
	}
}

// announce tells all readers that typ happened to the container, or pod, with
// that ID. The change is on record already. It waits for nobody: a reader whose
// queue is full loses its subscription.
func (e *Events) announce(p *Pod, id string, typ EventType) {
	if e == nil || e.readers.Load() == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	// The time comes before the look: what the event shows includes all that was
	// announced before it.
	ev := &Event{ID: id, Type: typ, Snapshot: Snapshot{At: e.tickLocked()}}
	ev.Pod, ev.Containers = p.look()
	for s := range e.subs {
		select {
		case s.queue <- ev:
		default:
			s.endLocked(ErrSlow)
		}
	}
}

// tick returns a time that is later than all it has returned before: now, unless
// the clock was set back or is too coarse.
func (e *Events) tick() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tickLocked()
}

func (e *Events) tickLocked() int64 {
	e.last = max(time.Now().UnixNano(), e.last+1)
	return e.last
}

// Snapshot returns the pod and its containers as they are now.
func (p *Pod) Snapshot() Snapshot {
	for {
		before := p.changes.Load()
		s := Snapshot{}
		s.Pod, s.Containers = p.look()
		// The time comes after the look, so that it is not older than what was seen.
		// A change that was not seen is announced later than that: it is counted
		// before its event gets a time, and it has not been counted by now.
		s.At = p.events.tick()
		if p.changes.Load() == before {
			return s
		}
	}
}

// look reads the pod and its containers.
func (p *Pod) look() (PodRecord, []ContainerRecord) {
	var list []ContainerRecord
	for _, c := range p.members() {
		if r := c.Record(); r.State != Creating {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b ContainerRecord) int {
		return cmp.Or(cmp.Compare(a.CreatedAt, b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return p.Record(), list
}

// started has the pod's coming up announced, once.
func (p *Pod) started() {
	p.live.Store(true)
	id := p.Record().ID
	p.events.announce(p, id, EventCreated)
	p.events.announce(p, id, EventStarted)
}

// stopped has the pod's end announced, once, if it was ever up.
func (p *Pod) stopped() {
	if p.live.Swap(false) {
		p.events.announce(p, p.Record().ID, EventStopped)
	}
}

// A launch orders a container's events: a process that ends while it is still
// being started is announced as started first.
type launch struct {
	mu        sync.Mutex
	under     bool // a start is under way; guarded by mu
	tried     bool // a start was tried; guarded by mu
	postponed bool // the exit is on record and not announced yet; guarded by mu
}

// try notes that the command is to run now.
func (l *launch) try() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tried = true
}

// starting postpones the announcement of c's exit until launched.
func (c *Container) starting() {
	c.launch.mu.Lock()
	defer c.launch.mu.Unlock()
	c.launch.under = true
}

// launched has c announced as started, if it was.
func (c *Container) launched(ok bool) {
	c.launch.mu.Lock()
	defer c.launch.mu.Unlock()
	if ok {
		c.announce(EventStarted)
	}
	if c.launch.postponed {
		c.announce(EventStopped)
	}
	c.launch.under, c.launch.postponed = false, false
}

// stopped has c's exit announced, or postponed until its start is. Who waits for the exit does not
// wait for that: a pod that is stopped while a start hangs is announced as stopped first.
func (c *Container) stopped() {
	c.launch.mu.Lock()
	defer c.launch.mu.Unlock()
	if c.launch.under {
		c.launch.postponed = true
		return
	}
	c.announce(EventStopped)
}

func (c *Container) announce(typ EventType) { c.pod.events.announce(c.pod, c.Record().ID, typ) }
