package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthd/berth/sandbox/cgroupstat"
	"github.com/berthd/berth/snapshot"
)

// fakeCgroups has one millisecond of CPU time in each cgroup, except in those that
// have gone and the one that cannot be read.
type fakeCgroups struct {
	mu     sync.Mutex
	usage  map[string]uint64
	gone   string
	broken string
	kept   map[string]bool // what Read has seen
}

func (f *fakeCgroups) cpuUsage(path string) (uint64, error) {
	switch path {
	case f.gone:
		return 0, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	case f.broken:
		return 0, errFault
	}
	if n, ok := f.usage[path]; ok {
		return n, nil
	}
	return 1e6, nil
}

func (f *fakeCgroups) Read(path string) (cgroupstat.Stats, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.cpuUsage(path)
	if f.kept == nil {
		f.kept = map[string]bool{}
	}
	f.kept[path] = true
	return cgroupstat.Stats{Time: time.Now(), CPU: cgroupstat.CPU{Usage: n}, Memory: cgroupstat.Memory{Usage: 10, Faults: 2}}, err
}

func (f *fakeCgroups) ReadAll(path string) (cgroupstat.Stats, error) { return f.Read(path) }

func (f *fakeCgroups) Retain(live map[string]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.kept, func(path string, _ bool) bool { return !live[path] })
}

func (f *fakeCgroups) CountProcesses(path string) (uint64, error) { return 1, nil }

func (f *fakeCgroups) Processes(path string) (cgroupstat.Processes, error) {
	return cgroupstat.Processes{Count: 1}, nil
}

// measured is a node with a pod and n running containers over fake cgroups.
func measured(t *testing.T, n int) (*Node, *fakeNode, *fakeCgroups, string, []string) {
	t.Helper()
	f := newFakeNode(t)
	node := f.open(t, t.TempDir())
	cg := &fakeCgroups{}
	node.Stats.opts.Cgroups = cg
	t.Cleanup(node.Close)
	pod, err := node.Pods.Run(t.Context(), podSpec("a", false))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for i := range n {
		c, err := node.Containers.Create(t.Context(), pod.ID, containerSpec(fmt.Sprint("c", i), "image"))
		if err != nil {
			t.Fatal(err)
		}
		if err := node.Containers.Start(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, c.ID)
	}
	t.Cleanup(func() {
		if err := node.Pods.Remove(context.WithoutCancel(t.Context()), pod.ID); err != nil {
			t.Error(err)
		}
	})
	return node, f, cg, pod.ID, ids
}

// One container that vanishes, and one that cannot be read, do not fail the others.
func TestStatsVanished(t *testing.T) {
	node, _, cg, podID, ids := measured(t, 4)
	all := func(ContainerRecord) bool { return true }
	if got := node.Stats.Containers(t.Context(), all); len(got) != 4 || got[0].Layer == nil || got[0].Layer.Bytes != 4096 {
		t.Fatalf("%+v", got)
	}
	cg.gone, cg.broken = "/berth-"+ids[1], "/berth-"+ids[2]
	if got := node.Stats.Containers(t.Context(), all); len(got) != 2 {
		t.Errorf("%d containers, want the two others", len(got))
	}
	if st, err := node.Stats.Container(t.Context(), ids[1]); err != nil || st.Cgroup != nil || st.Record.ID != ids[1] {
		t.Errorf("one that has gone: %+v, %v", st, err)
	}
	if _, err := node.Stats.Container(t.Context(), ids[2]); !errors.Is(err, errFault) {
		t.Errorf("one that cannot be read: %v", err)
	}
	pods := node.Stats.Pods(t.Context(), func(PodRecord) bool { return true })
	if len(pods) != 1 || pods[0].Record.ID != podID || len(pods[0].Containers) != 2 {
		t.Errorf("pods: %+v", pods)
	}
}

// What is kept of cgroups is let go when their containers have ended.
func TestStatsLetGo(t *testing.T) {
	node, _, cg, _, ids := measured(t, 2)
	node.Stats.Containers(t.Context(), func(ContainerRecord) bool { return true })
	if err := node.Containers.Stop(t.Context(), ids[0], 0); err != nil {
		t.Fatal(err)
	}
	node.Stats.tidy(false)
	cg.mu.Lock()
	defer cg.mu.Unlock()
	if len(cg.kept) != 1 || !cg.kept["/berth-"+ids[1]] {
		t.Errorf("kept: %v", cg.kept)
	}
	cg.mu.Unlock()
	node.Stats.rates.rate("old", point{time.Now().Add(-askedFor), 1})
	node.Stats.tidy(true)
	cg.mu.Lock()
	if _, ok := node.Stats.rates.points["old"]; ok || len(cg.kept) != 0 {
		t.Errorf("kept after all was let go: %v, %v", cg.kept, node.Stats.rates.points)
	}
}

// Whatever is asked for, what is kept is let go when nobody asks any more.
func TestStatsAsked(t *testing.T) {
	node, _, _, podID, ids := measured(t, 1)
	for what, ask := range map[string]func(){
		"a container": func() { _, _ = node.Stats.Container(t.Context(), ids[0]) },
		"containers":  func() { node.Stats.Containers(t.Context(), func(ContainerRecord) bool { return true }) },
		"a pod":       func() { _, _ = node.Stats.Pod(t.Context(), podID) },
		"pods":        func() { node.Stats.Pods(t.Context(), func(PodRecord) bool { return true }) },
		"metrics":     func() { node.Stats.Metrics(t.Context()) },
	} {
		a := &node.Stats.asked
		a.mu.Lock()
		a.last = time.Time{}
		a.mu.Unlock()
		ask()
		a.mu.Lock()
		if a.last.IsZero() || a.letGo == nil {
			t.Errorf("%s: not noted", what)
		}
		a.mu.Unlock()
	}
}

// A pod without a cgroup of its own is the sum of its containers, ended ones included
// where it counts.
func TestStatsSum(t *testing.T) {
	node, _, _, podID, ids := measured(t, 3)
	sum := func() cgroupstat.Stats {
		st, err := node.Stats.Pod(t.Context(), podID)
		if err != nil {
			t.Fatal(err)
		}
		return *st.Cgroup
	}
	if s := sum(); s.CPU.Usage != 3e6 || s.Memory.Usage != 30 || s.Memory.Faults != 6 {
		t.Errorf("three: %+v", s)
	}
	if err := node.Containers.Remove(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	if s := sum(); s.CPU.Usage != 3e6 || s.Memory.Usage != 20 || s.Memory.Faults != 6 {
		t.Errorf("two are left: %+v", s)
	}
	node.Stats.sums.prune(nil)
	if len(node.Stats.sums.last) != 0 {
		t.Error("a pod that is no more is remembered")
	}
}

// A rate is of the time since the question before, and of five seconds at least if it can be.
func TestRate(t *testing.T) {
	begin := time.Unix(1700000000, 0)
	for _, tt := range []struct {
		name  string
		every time.Duration
		span  [2]time.Duration // from the eighth question on
	}{
		{"kubelet", 10 * time.Second, [2]time.Duration{10 * time.Second, 10 * time.Second}},
		{"many", time.Second, [2]time.Duration{5 * time.Second, 10 * time.Second}},
		{"few", time.Minute, [2]time.Duration{time.Minute, time.Minute}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r rates
			// The counter tells over which time a rate was taken: in each second it grows by
			// twice as many nanoseconds as seconds have passed.
			usage := func(d time.Duration) uint64 { return uint64(d.Seconds() * d.Seconds()) }
			for i := range 50 {
				d := time.Hour + time.Duration(i)*tt.every
				got := r.rate("a", point{begin.Add(d), usage(d)})
				if i < 7 {
					if (got == nil) != (i == 0) {
						t.Errorf("question %d: %v", i, got)
					}
					continue
				}
				// (d² - (d-span)²) / span = 2d - span
				over := 2*d - time.Duration(*got)*time.Second
				if over < tt.span[0] || over > tt.span[1] {
					t.Errorf("question %d: over %v, want %v", i, over, tt.span)
				}
			}
		})
	}
}

// Without anything to take it from there is no rate.
func TestRateNone(t *testing.T) {
	begin := time.Unix(1700000000, 0)
	var r rates
	for i, q := range []struct {
		what  string
		after time.Duration // the question before
		usage uint64
		want  bool
	}{
		{"the first", 0, 5000, false},
		{"at the same time, read before", shortest / 10, 4900, false},
		{"too soon", shortest*9/10 - 1, 6000, false},
		{"a second later", 1, 7000, true},
		{"the counter began anew", 10 * time.Second, 100, false},
		{"after that", 10 * time.Second, 200, true},
		{"nobody asked for long", askedFor + 1, 300, false},
		{"after that", shortest, 400, true},
		{"much later", 50 * time.Second, 500, true},
		{"soon after", shortest * 9 / 10, 500, true}, // over 51 seconds: better than none
		{"a bit after", shortest * 2, 600, true},
	} {
		begin = begin.Add(q.after)
		if got := r.rate("a", point{begin, q.usage}); (got != nil) != q.want {
			t.Errorf("%d, %s: %v, want one %v", i, q.what, got, q.want)
		} else if q.what == "a bit after" && *got < 30 { // over 3 seconds, not 54
			t.Errorf("%s: %d", q.what, *got)
		}
	}
	r.rate("b", point{begin.Add(time.Second), 1})
	r.forget(begin.Add(1))
	if _, ok := r.points["b"]; len(r.points) != 1 || !ok {
		t.Errorf("left: %v", r.points)
	}
}

// What is kept is looked through every ten seconds while somebody asks, and let go two minutes after.
func TestAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running sync.WaitGroup
		var some, all atomic.Int64
		a := asked{
			start: func(work func(context.Context)) { running.Go(func() { work(t.Context()) }) },
			tidy: func(everything bool) {
				if everything {
					all.Add(1)
				} else {
					some.Add(1)
				}
			},
		}
		for range 120 {
			a.note()
			time.Sleep(time.Second)
		}
		if some.Load() != 12 || all.Load() != 0 {
			t.Errorf("in two minutes with questions: looked through %d times, all let go %d times", some.Load(), all.Load())
		}
		time.Sleep(askedFor - 2*time.Second)
		synctest.Wait()
		if all.Load() != 0 {
			t.Error("let go early")
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if some.Load() != 12 || all.Load() != 1 {
			t.Errorf("later: looked through %d times, all let go %d times", some.Load(), all.Load())
		}
		running.Wait()
	})
}

// slowRoots measures as long as it is told, and counts.
type slowRoots struct {
	Roots
	let chan struct{}

	mu       sync.Mutex
	now, max int
	count    map[string]int
}

func (r *slowRoots) Usage(_ context.Context, id string) (snapshot.Usage, error) {
	r.mu.Lock()
	r.now++
	r.max = max(r.max, r.now)
	r.count[id]++
	n := uint64(r.count[id])
	r.mu.Unlock()
	<-r.let
	r.mu.Lock()
	r.now--
	r.mu.Unlock()
	if id == "gone" {
		return snapshot.Usage{}, snapshot.ErrNotFound
	}
	return snapshot.Usage{Bytes: 100 * n, Inodes: n}, nil
}

// seen tells how often id was measured, and how many were at once.
func (r *slowRoots) seen(id string) (times, atOnce int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count[id], r.max
}

func TestLayers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &slowRoots{let: make(chan struct{}), count: map[string]int{}}
		l := layers{roots: r, start: func(work func(context.Context)) { go work(t.Context()) }}
		ids := []string{"a", "b", "c", "gone"}
		if sum := l.total(ids); sum.Bytes != 0 || sum.At.IsZero() {
			t.Errorf("before anything is measured: %+v", sum)
		}
		wait, cancel := context.WithTimeout(t.Context(), firstMeasure)
		defer cancel()
		if u := l.usage(wait, "a"); u != nil {
			t.Errorf("a walk that hangs: %+v", u)
		}
		close(r.let)
		synctest.Wait()
		if _, atOnce := r.seen("a"); atOnce != layerWidth {
			t.Errorf("%d at once, want %d", atOnce, layerWidth)
		}
		if sum := l.total(ids); sum.Bytes != 300 || sum.Inodes != 3 {
			t.Errorf("%+v", sum)
		}
		for range 10 {
			l.usage(t.Context(), "a")
		}
		if times, _ := r.seen("a"); times != 1 {
			t.Errorf("measured %d times within a minute", times)
		}
		time.Sleep(layerFresh)
		if u := l.usage(t.Context(), "a"); u == nil || u.Bytes != 100 { // what there is, at once
			t.Errorf("stale: %+v", u)
		}
		synctest.Wait()
		if u := l.usage(t.Context(), "a"); u == nil || u.Bytes != 200 {
			t.Errorf("a minute later: %+v", u)
		}
		l.total([]string{"b"})
		synctest.Wait()
		if len(l.known) != 1 {
			t.Errorf("remembered: %v", l.known)
		}
	})
}
