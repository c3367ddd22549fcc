package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berthd/berth/test/bench"
	"github.com/berthd/berth/test/bench/meter"
	"github.com/berthd/berth/test/node"
)

const (
	busybox = "docker.io/library/busybox:latest"

	// settling is how long the kernel gets to free what has ended, and the runtimes to do what
	// they have put off.
	settling = 500 * time.Millisecond
	// aside is how many pods are made or removed at once where that is not measured.
	aside = 8
	// lifeLimit is how long what a pod needs from its start to its end may take.
	lifeLimit = 3 * time.Minute
)

// A contender is one of the runtimes that are compared.
type contender struct {
	name   string
	node   *node.Node
	client *node.Client
	logs   string
	stand  []string // IDs of the pods that stand
}

// A benchmark is the measurement under way.
type benchmark struct {
	setting
	world      *node.World
	contenders []*contender // containerd, berth
	figures    map[string]*figure
	spinner    *exec.Cmd // nil: no core is kept busy

	steps   []step
	staged  *staged
	critics []criticism
}

// open makes the surroundings and starts both runtimes.
func (b *benchmark) open(ctx context.Context) (err error) {
	b.progress("building what is not in .cache: containerd, runc, CNI plugins, images, critest")
	if b.world, err = node.NewWorld(ctx); err != nil {
		return err
	}
	if err := errors.Join(b.world.Widen(), b.world.BuildContainerd(ctx), b.world.BuildTools(ctx)); err != nil {
		return err
	}
	if err := install(filepath.Join(b.world.Repo, "bin"), filepath.Dir(b.world.Bin("containerd"))); err != nil {
		return err
	}
	if b.busy {
		b.spinner = exec.Command("setsid", "sh", "-c", "while :; do :; done")
		if err := b.spinner.Start(); err != nil {
			return err
		}
	}
	if err := b.add(ctx, "containerd", b.world.Containerd); err != nil {
		return err
	}
	return b.add(ctx, "berth", func(context.Context) (*node.Node, error) { return b.world.Berth("berth", "") })
}

// add starts a contender, with the image that all pods are of.
func (b *benchmark) add(ctx context.Context, name string, make func(context.Context) (*node.Node, error)) error {
	n, err := make(ctx)
	if err != nil {
		return err
	}
	c := &contender{name: name, node: n, logs: filepath.Join(b.world.Dir, "bench-logs", name)}
	b.contenders = append(b.contenders, c)
	// In a session of its own, so that what a terminal sends ends this program alone, which then
	// takes all away.
	n.Wrap = func(command []string) []string { return append([]string{"setsid"}, command...) }
	if err := os.MkdirAll(c.logs, 0o755); err != nil {
		return err
	}
	if err := n.Start(ctx); err != nil {
		return err
	}
	if c.client, err = n.Client(); err != nil {
		return err
	}
	_, err = c.client.Pull(ctx, busybox)
	return err
}

// close takes all of it away, and tells what is left on the machine.
func (b *benchmark) close(ctx context.Context) error {
	var errs []error
	if b.spinner != nil {
		_ = b.spinner.Process.Kill()
		_ = b.spinner.Wait()
	}
	var own []string
	for _, c := range b.contenders {
		own = append(own, filepath.Dir(c.node.State))
		errs = append(errs, c.close(ctx))
	}
	if b.world == nil {
		return errors.Join(errs...)
	}
	own = append(own, b.world.Bridge, filepath.Base(b.world.Dir))
	left, err := b.world.Leaks(ctx)
	left = slices.DeleteFunc(left, func(l string) bool { // what is others' on a shared machine
		return !slices.ContainsFunc(own, func(mine string) bool { return strings.Contains(l, mine) })
	})
	if len(left) > 0 {
		errs = append(errs, fmt.Errorf("left on the machine:\n%s", strings.Join(left, "\n")))
	}
	return errors.Join(append(errs, err, b.world.Close(ctx))...)
}

// close removes the contender's pods and stops it. It may be called at any time.
func (c *contender) close(ctx context.Context) error {
	var err error
	if c.client != nil && c.node.PID() == 0 {
		err = c.node.Start(ctx) // it has pods, and has been killed
	}
	if c.client != nil && err == nil {
		err = errors.Join(c.clear(ctx), c.client.RemoveAll(ctx))
	}
	if c.client != nil {
		c.client.Close()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w\nend of its log:\n%s", c.name, err, c.node.Tail(10))
	}
	err = errors.Join(err, c.node.Close())
	left, keepersErr := c.keepers()
	if len(left) > 0 {
		kill(left)
		err = errors.Join(err, fmt.Errorf("%s: processes that kept pods were left, and have been killed: %d", c.name, left))
	}
	return errors.Join(err, keepersErr)
}

// begin is the context of what makes a pod. It goes on when ctx ends meanwhile: a runtime does not drop
// what it is at, and something might come to be after all had been taken away.
func begin(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	whole, cancel := context.WithTimeout(context.WithoutCancel(ctx), lifeLimit)
	return whole, cancel, nil
}

// one runs a pod and removes it.
func (c *contender) one(ctx context.Context, name string) (bench.Sample, error) {
	ctx, cancel, err := begin(ctx)
	if err != nil {
		return bench.Sample{}, err
	}
	defer cancel()
	return bench.One(ctx, c.client, busybox, c.logs, name)
}

// run runs a pod with a container that waits, and returns their IDs.
func (c *contender) run(ctx context.Context, name string) (pod, container string, err error) {
	ctx, cancel, err := begin(ctx)
	if err != nil {
		return "", "", err
	}
	defer cancel()
	conf := node.Pod(name, c.logs)
	if pod, err = c.client.RunPod(ctx, conf); err != nil {
		return "", "", fmt.Errorf("%s: %w", c.name, err)
	}
	container, err = c.client.Run(ctx, pod, conf, node.Container(name, busybox, "sleep", "100000"))
	if err != nil {
		err = fmt.Errorf("%s: %w", c.name, err)
	}
	return pod, container, err
}

// fill adds pods until n stand.
func (c *contender) fill(ctx context.Context, n int) error {
	have := len(c.stand)
	if n <= have {
		return nil
	}
	c.stand = append(c.stand, make([]string, n-have)...)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(aside)
	for i := have; i < n; i++ {
		group.Go(func() (err error) {
			c.stand[i], _, err = c.run(ctx, fmt.Sprintf("stand-%d", i))
			return err
		})
	}
	return group.Wait()
}

// clear removes the pods that stand.
func (c *contender) clear(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(aside)
	for _, id := range c.stand {
		if id != "" {
			group.Go(func() error { return c.client.RemovePod(ctx, id) })
		}
	}
	c.stand = nil
	return group.Wait()
}

// keepers are the processes that keep its pods, the daemon included.
func (c *contender) keepers() ([]int, error) {
	return meter.Keepers(filepath.Dir(c.node.State)+"/", filepath.Dir(c.node.Root)+"/")
}

// turns calls do for each contender in turn, n times over, each time in another order.
func (b *benchmark) turns(n int, do func(i int, c *contender) error) error {
	for i := range n {
		list := slices.Clone(b.contenders)
		if i%2 == 1 {
			slices.Reverse(list)
		}
		for _, c := range list {
			if err := do(i, c); err != nil {
				return fmt.Errorf("%s, turn %d: %w", c.name, i+1, err)
			}
		}
	}
	return nil
}

// alone stops the processes that keep the other contenders' pods while do runs: they are not
// what is measured, and one of them is seldom idle.
func (b *benchmark) alone(c *contender, do func() error) (err error) {
	for _, other := range b.contenders {
		if other == c {
			continue
		}
		pids, err := other.keepers()
		if err != nil {
			return err
		}
		defer thaw(pids)
		freeze(pids)
	}
	return do()
}

// worked is what the CPUs of the whole machine do for what do does, and shortly after. What this
// program uses, and what keeps a core busy, is left out.
func (b *benchmark) worked(do func() error) (time.Duration, error) {
	before, err := b.machine()
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	time.Sleep(settling)
	after, err := b.machine()
	return after - before, err
}

func (b *benchmark) machine() (time.Duration, error) {
	total, err := meter.Machine()
	if err != nil {
		return 0, err
	}
	others := []int{os.Getpid()}
	if b.spinner != nil {
		others = append(others, b.spinner.Process.Pid)
	}
	for _, pid := range others {
		used, err := meter.CPU(pid)
		if err != nil {
			return 0, err
		}
		total -= used
	}
	return total, nil
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }
