package sandbox

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
)

// next reads n events and returns them as "type of whom", in order.
func next(t *testing.T, s *Subscription, names map[string]string, n int) []string {
	t.Helper()
	var got []string
	var last int64
	for range n {
		ev, err := s.Next(t.Context())
		if err != nil {
			t.Fatalf("after %v: %v", got, err)
		}
		if ev.At <= last {
			t.Errorf("an event at %d comes after one at %d", ev.At, last)
		}
		last = ev.At
		if ev.Pod.ID == "" {
			t.Errorf("an event without a pod: %+v", ev)
		}
		name := names[ev.ID]
		if name == "" {
			name = ev.ID
		}
		got = append(got, [...]string{"created", "started", "stopped", "deleted"}[ev.Type]+" "+name)
	}
	return got
}

// The life of a pod and a container, as those who read events see it.
func TestEvents(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	defer n.Close()
	sub := n.Events.Subscribe()
	defer sub.Close()
	podID, id := full(t, n, "p", false)
	failed, err := n.Containers.Create(t.Context(), podID, containerSpec("bad", "image"))
	if err != nil {
		t.Fatal(err)
	}
	f.setFault("Tasks.Start", false)
	if err := n.Containers.Start(t.Context(), failed.ID); err == nil {
		t.Fatal("a start that should fail")
	}
	f.setFault("", false)
	if _, err := n.Containers.Create(t.Context(), podID, containerSpec("never", "missing")); err == nil {
		t.Fatal("a creation that should fail")
	}
	if err := n.Containers.Remove(t.Context(), failed.ID); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := n.Pods.Stop(t.Context(), podID); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Pods.Remove(t.Context(), podID); err != nil {
		t.Fatal(err)
	}
	names := map[string]string{podID: "pod", id: "c", failed.ID: "bad"}
	want := []string{"created pod", "started pod", "created c", "started c", "created bad", "stopped bad", "deleted bad",
		"stopped c", "stopped pod", "deleted c", "deleted pod"}
	if got := next(t, sub, names, len(want)); !slices.Equal(got, want) {
		t.Errorf("events are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	assertNothing(t, f, dir)
}

// What an event shows includes the change that it is about. It may be of later.
func TestEventsShowTheirChange(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	defer n.Close()
	sub := n.Events.Subscribe()
	defer sub.Close()
	podID, id := full(t, n, "p", false)
	if err := n.Pods.Remove(t.Context(), podID); err != nil {
		t.Fatal(err)
	}
	life := []string{"", "created", "ready", "running", "stopping", "exited", "notready", "removing"}
	want := []struct {
		what           EventType
		pod, container string
	}{
		{EventCreated, "ready", ""}, {EventStarted, "ready", ""},
		{EventCreated, "ready", "created"}, {EventStarted, "ready", "running"},
		{EventStopped, "stopping", "exited"}, {EventStopped, "notready", "exited"},
		{EventDeleted, "notready", ""}, {EventDeleted, "removing", ""},
	}
	for i, w := range want {
		ev, err := sub.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		container := ""
		for _, c := range ev.Containers {
			if c.ID == id {
				container = string(c.State)
			}
		}
		early := slices.Index(life, string(ev.Pod.State)) < slices.Index(life, w.pod) ||
			slices.Index(life, container) < slices.Index(life, w.container)
		if ev.Type != w.what || early || w.container == "" && container != "" {
			t.Errorf("event %d is of type %d and shows %s and %s, want %d, %s and %s or later", i, ev.Type, ev.Pod.State, container, w.what, w.pod, w.container)
		}
	}
}

// A process that ends before its start has returned is announced as started
// first.
func TestEventsOfShortLife(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	defer n.Close()
	p, err := n.Pods.Run(t.Context(), podSpec("p", false))
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.Containers.Create(t.Context(), p.ID, containerSpec("c", "image"))
	if err != nil {
		t.Fatal(err)
	}
	sub := n.Events.Subscribe()
	defer sub.Close()
	k, err := n.Containers.Get(c.ID)
	if err != nil {
		t.Fatal(err)
	}
	f.onStart = func(id string) {
		f.mu.Lock()
		f.endLocked(id, 3)
		f.mu.Unlock()
		<-k.exited
	}
	if err := n.Containers.Start(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if got, want := next(t, sub, map[string]string{c.ID: "c"}, 2), []string{"started c", "stopped c"}; !slices.Equal(got, want) {
		t.Errorf("events are %v, want %v", got, want)
	}
	if err := n.Pods.Remove(t.Context(), p.ID); err != nil {
		t.Error(err)
	}
}

// A reader that does not read loses its subscription; it holds up nobody, and
// others miss nothing.
func TestSlowReader(t *testing.T) {
	e := &Events{}
	p := newPod(PodRecord{ID: "p", State: Ready}, "", e)
	slow, fast := e.Subscribe(), e.Subscribe()
	read := make(chan int)
	go func() {
		n := 0
		for {
			if _, err := fast.Next(context.Background()); err != nil {
				read <- n
				return
			}
			n++
			read <- -1
		}
	}()
	for range queuedEvents + 1 {
		e.announce(p, "c", EventStarted)
		<-read
	}
	if _, err := slow.Next(t.Context()); !errors.Is(err, ErrSlow) {
		t.Errorf("the slow reader: %v", err)
	}
	if n := len(slow.queue); n > 0 {
		t.Errorf("%d events are kept for a reader that has lost its subscription", n)
	}
	e.Close()
	if n := <-read; n != queuedEvents+1 {
		t.Errorf("the other reader got %d events", n)
	}
	if _, err := e.Subscribe().Next(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("a subscription after the end: %v", err)
	}
	if e.readers.Load() != 0 || len(e.subs) > 0 {
		t.Errorf("%d readers left", e.readers.Load())
	}
}

// Snapshots and events are in one order, by their times: none shows less than one
// that is older.
func TestSnapshotOrder(t *testing.T) {
	e := &Events{}
	p := newPod(PodRecord{ID: "p", State: Ready}, t.TempDir()+"/pod.json", e)
	sub := e.Subscribe()
	defer sub.Close()
	type seen struct{ at, n int64 }
	var all []seen
	var mu sync.Mutex
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				s := p.Snapshot()
				mu.Lock()
				all = append(all, seen{s.At, s.Pod.CreatedAt})
				mu.Unlock()
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	const changes = 500
	for i := range int64(changes) {
		if err := p.update(false, func(r *PodRecord) error { r.CreatedAt = i + 1; return nil }); err != nil {
			t.Fatal(err)
		}
		e.announce(p, "p", EventStarted)
	}
	close(stop)
	wg.Wait()
	for range changes {
		ev, err := sub.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, seen{ev.At, ev.Pod.CreatedAt})
	}
	slices.SortFunc(all, func(a, b seen) int { return int(a.at - b.at) })
	for i := 1; i < len(all); i++ {
		if all[i].at == all[i-1].at || all[i].n < all[i-1].n {
			t.Fatalf("at %d change %d is seen, at %d it is %d", all[i-1].at, all[i-1].n, all[i].at, all[i].n)
		}
	}
}

// Without readers an announcement makes nothing.
func TestNobodyReads(t *testing.T) {
	e := &Events{}
	p := newPod(PodRecord{ID: "p", State: Ready}, "", e)
	if n := testing.AllocsPerRun(100, func() { e.announce(p, "p", EventStarted) }); n > 0 {
		t.Errorf("%v allocations for nobody", n)
	}
}
