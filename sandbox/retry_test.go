package sandbox

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

// A creation whose caller gives up goes on; the next caller joins it, and the task
// is made once (the fake would panic).
func TestCreateIsJoined(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	defer n.Close()
	p, err := n.Pods.Run(t.Context(), podSpec("p", false))
	if err != nil {
		t.Fatal(err)
	}
	f.arrived, f.let = make(chan struct{}), make(chan struct{})
	first, giveUp := context.WithCancel(t.Context())
	made := make(chan error, 1)
	go func() {
		_, err := n.Containers.Create(first, p.ID, containerSpec("c", "image"))
		made <- err
	}()
	<-f.arrived
	giveUp()
	if err := <-made; !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up: %v", err)
	}
	ids := make(chan string, 2)
	for range 2 {
		go func() {
			c, err := n.Containers.Create(context.Background(), p.ID, containerSpec("c", "image"))
			if err != nil {
				t.Error(err)
			}
			ids <- c.ID
		}()
	}
	close(f.let)
	if a, b := <-ids, <-ids; a == "" || a != b || len(n.Containers.List()) != 1 {
		t.Errorf("containers %q and %q, %d listed", a, b, len(n.Containers.List()))
	}
	if err := n.Pods.Remove(t.Context(), p.ID); err != nil {
		t.Error(err)
	}
	assertNothing(t, f, dir)
}

// A second stop with a shorter timeout ends the wait of the first, also when the
// first caller has gone. The fake's task ignores all signals but SIGKILL.
func TestStopIsShortened(t *testing.T) {
	for _, gone := range []bool{false, true} {
		f, dir := newFakeNode(t), t.TempDir()
		n := f.open(t, dir)
		podID, id := full(t, n, "p", false)
		c, err := n.Containers.Get(id)
		if err != nil {
			t.Fatal(err)
		}
		ctx, giveUp := context.WithCancel(t.Context())
		first := make(chan error, 1)
		go func() { first <- n.Containers.Stop(ctx, id, time.Hour) }()
		within(t, "the first stop's signal", c.signalled.Load)
		if gone {
			giveUp()
			if err := <-first; !errors.Is(err, context.Canceled) || c.Record().State != Running {
				t.Errorf("who gave up: %v, and the container is %s", err, c.Record().State)
			}
			first <- nil
		}
		if err := n.Containers.Stop(t.Context(), id, 20*time.Millisecond); err != nil {
			t.Error(err)
		}
		if err := <-first; err != nil {
			t.Errorf("the first stop: %v", err)
		}
		if r := c.Record(); r.State != Exited || r.ExitCode != codeKilled {
			t.Errorf("after it: %s, code %d", r.State, r.ExitCode)
		}
		giveUp()
		if err := n.Pods.Remove(t.Context(), podID); err != nil {
			t.Error(err)
		}
		n.Close()
		assertNothing(t, f, dir)
	}
}

// Stops and removals of the same things, many at once, in every mixture.
func TestManyStopsAndRemovals(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	defer n.Close()
	podID, id := full(t, n, "p", true)
	var wg sync.WaitGroup
	for range 20 {
		for _, call := range []func() error{
			func() error { return n.Containers.Stop(context.Background(), id, time.Millisecond) },
			func() error { return n.Containers.Remove(context.Background(), id) },
			func() error { return n.Pods.Stop(context.Background(), podID) },
			func() error { return n.Pods.Remove(context.Background(), podID) },
		} {
			wg.Go(func() {
				if err := call(); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	assertNothing(t, f, dir)
}

// Who waited for somebody else's removal leaves the records alone: the pod may be
// on its way out, and a record that came back would be in its way.
func TestLateRemoval(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	defer n.Close()
	podID, id := full(t, n, "p", false)
	p, err := n.Pods.Get(podID)
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.Containers.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Containers.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	before := p.changes.Load()
	if err := n.Containers.removeContainer(t.Context(), c); err != nil || p.changes.Load() != before {
		t.Errorf("a late removal of a container: %v, %d changes", err, p.changes.Load()-before)
	}
	if err := n.Pods.Remove(t.Context(), podID); err != nil {
		t.Fatal(err)
	}
	before = p.changes.Load()
	if err := n.Pods.remove(t.Context(), p); err != nil || p.changes.Load() != before {
		t.Errorf("a late removal of a pod: %v, %d changes", err, p.changes.Load()-before)
	}
	assertNothing(t, f, dir)
}

// A self-test that is under way when the daemon stops is waited for, so that it
// leaves nothing; what a killed one left is not swept from under the next.
func TestSelfTestLeavesNothing(t *testing.T) {
	base, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	under, let, second := make(chan struct{}), make(chan struct{}), false
	r := &Readiness{base: base, now: time.Now, stages: []selfTestStage{
		{"try", func(ctx context.Context) error { close(under); <-ctx.Done(); <-let; return nil }},
		{"go on", func(context.Context) error { second = true; return nil }},
	}}
	r.background = func(work func(context.Context)) { wg.Go(func() { work(base) }) }
	r.Problem()
	<-under
	stop()
	closed := make(chan struct{})
	go func() { wg.Wait(); close(closed) }()
	select {
	case <-closed:
		t.Error("the self-test was not waited for")
	case <-time.After(50 * time.Millisecond):
	}
	close(let)
	<-closed
	if second {
		t.Error("the self-test went on in a daemon that stops")
	}
	f := newFakeNode(t)
	n := f.open(t, t.TempDir())
	defer n.Close()
	if ids := n.orphans(seen{ids: map[string]bool{selfTestID: true}}); len(ids) > 0 {
		t.Errorf("swept: %v", ids)
	}
}
