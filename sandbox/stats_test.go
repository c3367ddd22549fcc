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

func (f *fakeCgroups) CPUUsage(path string) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
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
	n, err := f.CPUUsage(path)
	f.mu.Lock()
	defer f.mu.Unlock()
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
	node.Stats.sample()
	cg.mu.Lock()
	defer cg.mu.Unlock()
	if len(cg.kept) != 1 || !cg.kept["/berth-"+ids[1]] {
		t.Errorf("kept: %v", cg.kept)
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

// The sampler runs while somebody asks, and a minute longer.
func TestSampler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running sync.WaitGroup
		begin := time.Now()
		usage := func() uint64 { return uint64(time.Since(begin)) / 4 } // a quarter of a CPU
		var counted, rests atomic.Int64
		s := sampler{
			read:  func() map[string]point { counted.Add(1); return map[string]point{"a": {time.Now(), usage()}} },
			rest:  func() { rests.Add(1) },
			start: func(work func(context.Context)) { running.Go(func() { work(t.Context()) }) },
		}
		rate := func() *uint64 {
			s.ask()
			return s.rate("a", point{time.Now(), usage()})
		}
		if got := rate(); got != nil {
			t.Errorf("first: %d", *got)
		}
		time.Sleep(shortest / 2)
		if got := rate(); got != nil {
			t.Errorf("too soon: %d", *got)
		}
		for i := range 100 {
			time.Sleep(shortest)
			if got := rate(); got == nil || *got < 249e6 || *got > 251e6 {
				t.Fatalf("ask %d: %v, want a quarter of a CPU", i, got)
			}
		}
		before := counted.Load()
		if before < 9 || before > 11 {
			t.Errorf("%d samples in 100 s", before)
		}
		running.Wait() // ends by itself
		if more := counted.Load() - before; s.runs || s.points != nil || rests.Load() != 1 || more > int64(sampleIdle/sampleEvery)+1 {
			t.Errorf("idle: runs %v, %v, %d samples more, told %d times", s.runs, s.points, more, rests.Load())
		}
		if got := rate(); got != nil {
			t.Errorf("first after idle: %d", *got)
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
