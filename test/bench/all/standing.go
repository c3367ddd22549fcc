package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/bench/meter"
)

const (
	calm       = 130 * time.Second // until Go's runtime has collected garbage with nothing to do, which takes it two minutes
	idleWindow = 20 * time.Second  // over which idle CPU is taken
	listsATurn = 10
	statsATurn = 4
	startsMore = 10 // pods that are started and removed beside those that stand, at each number of them

	listedWithin = 60 * time.Second // after a restart
)

// A step is what one contender costs with a number of pods, each with a container.
type step struct {
	contender                string
	pods                     int
	rate                     float64 // pods per second until they were there, eight at a time; 0: none were added
	start, list, empty, stat []float64
	pss                      float64 // KiB per pod
	idle, wakeups            float64 // ms per second, per second
}

// standing measures what pods cost that are there: memory, idle CPU, lists and statistics, first
// without any, and then with growing numbers of them.
func (b *benchmark) standing(ctx context.Context) (err error) {
	counts := b.counts()
	bare, err := b.bare(ctx)
	if err != nil {
		return err
	}
	defer func() {
		for _, c := range b.contenders {
			err = errors.Join(err, c.clear(context.WithoutCancel(ctx)))
		}
	}()
	for _, n := range counts {
		b.progress("  %d pods", n)
		if err := b.step(ctx, n, bare); err != nil {
			return fmt.Errorf("%d pods: %w", n, err)
		}
		if n == b.pods && slices.Contains(b.rows, "standing") {
			if err := b.restart(ctx); err != nil {
				return fmt.Errorf("restart with %d pods: %w", n, err)
			}
		}
	}
	return nil
}

// counts are the numbers of pods to measure with, ascending.
func (b *benchmark) counts() (all []int) {
	if slices.Contains(b.rows, "standing") {
		all = append(all, b.pods)
	}
	if slices.Contains(b.rows, "grow") {
		all = append(all, b.grow...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// bare is the daemons' memory without pods, in bytes. It notes it too.
func (b *benchmark) bare(ctx context.Context) (map[string]float64, error) {
	out := map[string]float64{}
	err := b.turns(warmUp, func(i int, c *contender) error { return b.one(ctx, c, fmt.Sprintf("first-%d", i), false) })
	if err == nil {
		err = pause(ctx, b.calm)
	}
	if err != nil {
		return nil, err
	}
	return out, b.turns(1, func(_ int, c *contender) error {
		pss, err := meter.PSS(c.node.PID())
		out[c.name] = float64(pss)
		b.note("idlepss", c, float64(pss)/(1<<20))
		return err
	})
}

// step adds pods until n stand with each contender, and measures.
func (b *benchmark) step(ctx context.Context, n int, bare map[string]float64) error {
	steps := map[string]*step{}
	for _, c := range b.contenders {
		s := &step{contender: c.name, pods: n}
		steps[c.name] = s
		more, begin := n-len(c.stand), time.Now()
		if err := c.fill(ctx, n); err != nil {
			return err
		}
		if more > 0 {
			s.rate = float64(more) / time.Since(begin).Seconds()
		}
		if err := c.healthy(ctx, n); err != nil {
			return err
		}
	}
	for _, measure := range []func(context.Context, map[string]*step, map[string]float64) error{b.idle, b.starts, b.lists} {
		if err := measure(ctx, steps, bare); err != nil {
			return err
		}
	}
	for _, c := range b.contenders {
		if err := c.healthy(ctx, n); err != nil {
			return err
		}
		s := steps[c.name]
		b.steps = append(b.steps, *s)
		if n != b.pods {
			continue
		}
		for key, values := range map[string][]float64{"pss": {s.pss}, "idle": {s.idle}, "wakeups": {s.wakeups}, "list": s.list, "empty": s.empty, "stats": s.stat} {
			for _, v := range values {
				b.note(key, c, v)
			}
		}
	}
	return nil
}

// idle measures CPU, wakeups and memory while nobody calls, of all at the same time.
func (b *benchmark) idle(ctx context.Context, steps map[string]*step, bare map[string]float64) error {
	if err := pause(ctx, b.calm); err != nil {
		return err
	}
	pids, before := map[string][]int{}, map[string]meter.Activity{}
	for _, c := range b.contenders {
		var err error
		if pids[c.name], err = c.keepers(); err != nil {
			return err
		}
		if before[c.name], err = meter.ActivityOf(pids[c.name]...); err != nil {
			return err
		}
	}
	begin := time.Now()
	if err := pause(ctx, idleWindow); err != nil {
		return err
	}
	for _, c := range b.contenders {
		after, err := meter.ActivityOf(pids[c.name]...)
		if err != nil {
			return err
		}
		seconds := time.Since(begin).Seconds()
		did := after.Sub(before[c.name])
		all, err := meter.PSS(pids[c.name]...)
		if err != nil {
			return err
		}
		daemon, err := meter.PSS(c.node.PID())
		if err != nil {
			return err
		}
		s := steps[c.name]
		s.idle, s.wakeups = milliseconds(did.CPU)/seconds, float64(did.Switches)/seconds
		s.pss = (float64(all) - bare[c.name]) / 1024 / float64(s.pods)
		if s.pods == b.pods {
			b.note("fullpss", c, float64(daemon)/(1<<20))
		}
	}
	return nil
}

// starts measures pods that come and go beside those that stand.
func (b *benchmark) starts(ctx context.Context, steps map[string]*step, _ map[string]float64) error {
	return b.turns(min(startsMore, b.n), func(i int, c *contender) error {
		s, err := c.one(ctx, fmt.Sprintf("beside-%d-%d", steps[c.name].pods, i))
		steps[c.name].start = append(steps[c.name].start, milliseconds(s.Up()))
		return err
	})
}

// lists measures lists and statistics, while the other contenders stand still.
func (b *benchmark) lists(ctx context.Context, steps map[string]*step, _ map[string]float64) error {
	return b.turns(1+b.n, func(turn int, c *contender) error {
		return b.alone(c, func() error {
			s := steps[c.name]
			list, err := timed(listsATurn, func() error {
				resp, err := c.client.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
				return enough(len(resp.GetContainers()), s.pods, err)
			})
			if err != nil {
				return fmt.Errorf("list: %w", err)
			}
			empty, err := timed(listsATurn, func() error {
				_, err := c.client.Version(ctx, &runtimeapi.VersionRequest{})
				return err
			})
			if err != nil {
				return fmt.Errorf("version: %w", err)
			}
			stat, err := timed(statsATurn, func() error {
				resp, err := c.client.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
				return enough(len(resp.GetStats()), s.pods, err)
			})
			if err != nil {
				return fmt.Errorf("stats: %w", err)
			}
			if turn > 0 { // the first warms up
				s.list, s.empty, s.stat = append(s.list, list...), append(s.empty, empty...), append(s.stat, stat...)
			}
			return nil
		})
	})
}

func enough(have, want int, err error) error {
	if err == nil && have < want {
		return fmt.Errorf("%d of %d are in the answer", have, want)
	}
	return err
}

// timed calls do n times and returns how long each took, in milliseconds.
func timed(n int, do func() error) (took []float64, err error) {
	for range n {
		begin := time.Now()
		if err := do(); err != nil {
			return nil, err
		}
		took = append(took, milliseconds(time.Since(begin)))
	}
	return took, nil
}

// healthy fails unless n pods are ready and n containers run.
func (c *contender) healthy(ctx context.Context, n int) error {
	pods, running, err := c.count(ctx)
	if err != nil {
		return err
	}
	if pods != n || running != n {
		return fmt.Errorf("%s: %d pods are ready and %d containers run, of %d", c.name, pods, running, n)
	}
	return nil
}

func (c *contender) count(ctx context.Context) (pods, running int, err error) {
	sandboxes, err := c.client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
	}})
	if err != nil {
		return 0, 0, err
	}
	containers, err := c.client.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}})
	return len(sandboxes.GetItems()), len(containers.GetContainers()), err
}

// restart kills the daemons, and measures when they know all their pods again.
func (b *benchmark) restart(ctx context.Context) error {
	return b.turns(b.restarts, func(turn int, c *contender) error {
		c.node.Kill()
		begin := time.Now()
		if err := c.node.Start(context.WithoutCancel(ctx)); err != nil {
			return err
		}
		for {
			pods, running, err := c.count(ctx)
			took := time.Since(begin)
			if err == nil && pods == b.pods && running == b.pods {
				b.note("restart", c, took.Seconds())
				b.progress("  %s: all listed after %.2f s", c.name, took.Seconds())
				return nil
			}
			if took > listedWithin {
				return errors.Join(err, fmt.Errorf("%d pods and %d containers of %d are listed %s after the start", pods, running, b.pods, took))
			}
		}
	})
}
