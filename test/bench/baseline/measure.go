package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/bench"
	"github.com/berthd/berth/test/bench/counter"
	"github.com/berthd/berth/test/node"
)

const (
	busybox = "docker.io/library/busybox:latest"

	defaultTurns = 5
	standing     = 20 // pods that lists are of
	aside        = 8  // of them that are made at once
	pods         = 4  // up and down in a turn
	execs        = 10
	calls        = 600 // of those that cost little: their allocations are the difference of two large numbers
	stats        = 25
	rounds       = 40 // in which a call that costs little is put beside Version
	perRound     = 50 // calls of each

	calming     = 5 * time.Second // until Go's runtime has given back memory, which wakes it
	idleWindow  = 3 * time.Second
	idleWindows = 3
	stillFor    = 60 * time.Millisecond // without a context switch: what was begun has ended
	stillMost   = 3 * time.Second       // until it is taken for still anyway: an idle daemon has a few
)

// yardstick is the fixed piece of work: programs that start and end, files that are opened, and
// arithmetic, as operations are made of.
const yardstick = `i=0; while [ $i -lt 60 ]; do /bin/true </proc/self/stat; i=$((i+1)); done; head -c 16777216 /dev/zero | sha256sum`

// A bed is where operations are measured: a berthd, counted from its start, with pods.
type bed struct {
	node       *node.Node
	client     *node.Client
	counters   *counter.Counters
	socket     string // of its figures
	logs       string
	containers []string
	sandboxes  []string

	values map[string][]float64
	cpu    map[string][]float64 // by operation, in ns
	fixed  []float64            // what the fixed piece of work took, in ns
}

// measure takes the medians of turns. What it makes goes away also upon an error.
func measure(ctx context.Context, turns int) (m measured, err error) {
	w, err := node.NewWorld(ctx)
	if err != nil {
		return m, err
	}
	clean := context.WithoutCancel(ctx)
	defer func() { err = errors.Join(err, w.Close(clean)) }()
	b := &bed{socket: filepath.Join(w.Dir, "metrics", "m.sock"), logs: filepath.Join(w.Dir, "bench-logs"), values: map[string][]float64{}, cpu: map[string][]float64{}}
	if err := os.MkdirAll(b.logs, 0o755); err != nil {
		return m, err
	}
	if b.node, err = w.Berth("berth", fmt.Sprintf("[metrics]\naddress = %q\n", "unix://"+b.socket)); err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, b.close(clean)) }()
	if err := b.open(ctx); err != nil {
		return m, err
	}
	if err := b.all(ctx, turns); err != nil {
		return m, fmt.Errorf("%w\nend of berthd's log:\n%s", err, b.node.Tail(10))
	}
	m = measured{repo: w.Repo, values: map[string]float64{}, without: map[counter.Event]error{}}
	for _, f := range figures() {
		m.values[f.name] = bench.Quantile(b.values[f.name], 0.5)
		m.without[f.event] = b.counters.Available(f.event)
	}
	return m, nil
}

// open starts berthd and the pods.
func (b *bed) open(ctx context.Context) (err error) {
	var events []counter.Event
	for _, f := range figures() {
		events = append(events, f.event)
	}
	b.counters, err = counter.Start(func() error { return b.node.Start(ctx) }, append(events, counter.Switches)...)
	if err != nil {
		return err
	}
	if b.client, err = b.node.Client(); err != nil {
		return err
	}
	if _, err := b.client.Pull(ctx, busybox); err != nil {
		return err
	}
	b.sandboxes, b.containers = make([]string, standing), make([]string, standing)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(aside)
	for i := range standing {
		group.Go(func() (err error) {
			name := fmt.Sprintf("stand-%d", i)
			conf := node.Pod(name, b.logs)
			if b.sandboxes[i], err = b.client.RunPod(ctx, conf); err != nil {
				return err
			}
			b.containers[i], err = b.client.Run(ctx, b.sandboxes[i], conf, node.Container(name, busybox, "sleep", "100000"))
			return err
		})
	}
	return group.Wait()
}

func (b *bed) close(ctx context.Context) error {
	var errs []error
	if b.client != nil {
		errs = append(errs, b.client.RemoveAll(ctx))
		b.client.Close()
	}
	errs = append(errs, b.node.Close())
	if b.counters != nil {
		errs = append(errs, b.counters.Close())
	}
	return errors.Join(errs...)
}

// all measures turns, after one that does not count, and then what an idle berthd does.
func (b *bed) all(ctx context.Context, turns int) error {
	for i := range 1 + turns {
		if err := b.turn(ctx); err != nil {
			return err
		}
		if i == 0 {
			b.values, b.cpu = map[string][]float64{}, map[string][]float64{}
		}
		used, err := work(ctx)
		if err != nil {
			return err
		}
		b.fixed = append(b.fixed, used)
	}
	// What else the machine does makes CPU time longer, of both, and never shorter.
	least := func(name string) float64 { return bench.Quantile(b.cpu[name], 0) }
	for name := range b.cpu {
		b.add(name+": CPU", 1000*least(name)/bench.Quantile(b.fixed, 0))
	}
	if err := b.beside(ctx); err != nil {
		return err
	}
	return b.idle(ctx)
}

// work does the fixed piece of work, and returns the CPU that it took, in ns.
func work(ctx context.Context) (float64, error) {
	cmd := exec.CommandContext(ctx, "sh", "-c", yardstick)
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("the fixed piece of work: %w", err)
	}
	return float64(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()), nil
}

func (b *bed) add(name string, value float64) { b.values[name] = append(b.values[name], value) }

// turn does some of every operation.
func (b *bed) turn(ctx context.Context) error {
	if err := b.count(ctx, "pod up and down", pods, func(i int) error {
		_, err := bench.One(ctx, b.client, busybox, b.logs, fmt.Sprintf("one-%d", i))
		return err
	}); err != nil {
		return err
	}
	for _, o := range []struct {
		name string
		n    int
		do   func(i int) error
	}{
		{"ExecSync", execs, func(int) error {
			resp, err := b.client.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: b.containers[0], Cmd: []string{"true"}, Timeout: 60})
			return right(err, resp.GetExitCode() == 0)
		}},
		{"Version", calls, func(int) error {
			_, err := b.client.Version(ctx, &runtimeapi.VersionRequest{})
			return err
		}},
		{"ListContainers", calls, func(int) error {
			resp, err := b.client.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
			return right(err, len(resp.GetContainers()) == standing)
		}},
		{"ListPodSandbox", calls, func(int) error {
			resp, err := b.client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
			return right(err, len(resp.GetItems()) == standing)
		}},
		{"ListContainerStats", stats, func(int) error {
			resp, err := b.client.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
			return right(err, len(resp.GetStats()) == standing)
		}},
		{"ContainerStatus", calls, func(i int) error {
			_, err := b.client.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: b.containers[i%standing]})
			return err
		}},
		{"PodSandboxStatus", calls, func(i int) error {
			_, err := b.client.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: b.sandboxes[i%standing]})
			return err
		}},
	} {
		if err := b.count(ctx, o.name, o.n, o.do); err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
	}
	last := func(name string) float64 { return b.values[name][len(b.values[name])-1] }
	b.add("ListContainers: allocations beyond Version's", last("ListContainers: allocations")-last("Version: allocations"))
	return nil
}

var errAnswer = errors.New("the answer is not what it should be")

func right(err error, is bool) error {
	if err == nil && !is {
		return errAnswer
	}
	return err
}

// count does something n times and notes what it costs once, by each event. What goes on
// after the answer counts too, what went on before does not.
func (b *bed) count(ctx context.Context, name string, n int, do func(i int) error) error {
	allocated, err := b.allocations(ctx)
	if err != nil {
		return err
	}
	again, err := b.allocations(ctx)
	if err != nil {
		return err
	}
	scrape := again - allocated // what the question costs
	if err := b.still(ctx); err != nil {
		return err
	}
	before, err := b.read()
	if err != nil {
		return err
	}
	for i := range n {
		if err := do(i); err != nil {
			return err
		}
	}
	if err := b.still(ctx); err != nil {
		return err
	}
	after, err := b.read()
	if err != nil {
		return err
	}
	allocated, err = b.allocations(ctx)
	if err != nil {
		return err
	}
	b.add(name+": allocations", (allocated-again-scrape)/float64(n))
	for _, e := range []struct {
		event counter.Event
		name  string
	}{{counter.Syscalls, "system calls"}, {counter.Opens, "files opened"}, {counter.Programs, "programs"}, {counter.Syncs, "waits for the disk"}} {
		b.add(name+": "+e.name, float64(after[e.event]-before[e.event])/float64(n))
	}
	b.cpu[name] = append(b.cpu[name], float64(after[counter.CPU]-before[counter.CPU])/float64(n))
	return nil
}

// read reads all counters.
func (b *bed) read() (map[counter.Event]int64, error) {
	out := map[counter.Event]int64{}
	for _, e := range []counter.Event{counter.CPU, counter.Switches, counter.Programs, counter.Syscalls, counter.Syncs, counter.Opens} {
		n, err := b.counters.Read(e)
		if err != nil {
			return nil, err
		}
		out[e] = n
	}
	return out, nil
}

// still waits until nothing goes on any more in berthd and what it has started.
func (b *bed) still(ctx context.Context) error {
	end := time.Now().Add(stillMost)
	for last := int64(-1); time.Now().Before(end); {
		n, err := b.counters.Read(counter.Switches)
		if err != nil || n == last {
			return err
		}
		last = n
		if err := pause(ctx, stillFor); err != nil {
			return err
		}
	}
	return nil
}

// pause waits for d.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// allocations is how many objects berthd has allocated so far.
func (b *bed) allocations(ctx context.Context) (float64, error) {
	all, err := bench.Scrape(ctx, b.socket)
	if err != nil {
		return 0, err
	}
	n := all["go_memstats_mallocs_total"]
	if n == 0 {
		return 0, errors.New("berthd does not say how much it has allocated")
	}
	return n, nil
}

// beside notes the CPU of ListContainers as a multiple of Version's: of the rounds that others
// have disturbed least.
func (b *bed) beside(ctx context.Context) error {
	version, list := make([]float64, rounds), make([]float64, rounds)
	for i := range rounds {
		for _, o := range []struct {
			took *float64
			do   func() error
		}{
			{&version[i], func() error { _, err := b.client.Version(ctx, &runtimeapi.VersionRequest{}); return err }},
			{&list[i], func() error { _, err := b.client.ListContainers(ctx, &runtimeapi.ListContainersRequest{}); return err }},
		} {
			before, err := b.counters.Read(counter.CPU)
			if err != nil {
				return err
			}
			for range perRound {
				if err := o.do(); err != nil {
					return err
				}
			}
			after, err := b.counters.Read(counter.CPU)
			if err != nil {
				return err
			}
			*o.took = float64(after - before)
		}
	}
	const undisturbed = 0.1 // of them
	b.add("ListContainers: CPU beside Version's", bench.Quantile(list, undisturbed)/bench.Quantile(version, undisturbed))
	return nil
}

// idle notes what berthd and its shims do when nobody calls: the least of some windows, since
// Go's runtime collects garbage in one or the other, and what somebody has put on a timer is in
// all of them.
func (b *bed) idle(ctx context.Context) error {
	if err := pause(ctx, calming); err != nil {
		return err
	}
	var perSecond []float64
	for range idleWindows {
		before, err := b.counters.Read(counter.Switches)
		if err != nil {
			return err
		}
		begin := time.Now()
		if err := pause(ctx, idleWindow); err != nil {
			return err
		}
		after, err := b.counters.Read(counter.Switches)
		if err != nil {
			return err
		}
		perSecond = append(perSecond, float64(after-before)/time.Since(begin).Seconds())
	}
	b.add("idle: context switches", bench.Quantile(perSecond, 0))
	return nil
}
