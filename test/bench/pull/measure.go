package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/test/bench"
	"github.com/berthd/berth/test/bench/meter"
	"github.com/berthd/berth/test/bench/profile"
	"github.com/berthd/berth/test/bench/registry"
	"github.com/berthd/berth/test/node"
)

// A contender is a runtime, with a way to make a node of it.
type contender struct {
	name  string
	owner string // how the names of its own functions begin
	make  func(ctx context.Context) (*node.Node, error)
}

// A key names what is measured.
type key struct{ contender, packing string }

// A result is one pull.
type result struct {
	wall    time.Duration // of PullImage
	sync    time.Duration // of writing what was not on disk yet
	cpu     time.Duration // of the runtime and its children
	machine time.Duration // of the whole machine, without the registry
	written int64         // bytes
	disk    int64         // bytes that the store takes
	peak    int64         // memory, bytes
	served  int64         // bytes that the registry sent
	asked   int           // GETs

	resolve time.Duration // from the call to the first layer's request
	layers  time.Duration // from there to the last layer's last byte
	tail    time.Duration // from there to the answer
	stages  []stage       // what berthd says itself
}

// A benchmark is the measurement under way.
type benchmark struct {
	setting
	*bench.Place
	results  map[key][]result
	profiles map[key]profile.Profile
	noPerf   error
}

// contenders are containerd and berth, with each driver.
func (b *benchmark) contenders() []contender {
	all := []contender{{"containerd", "github.com/containerd/containerd/", b.World.Containerd}}
	for _, driver := range b.drivers {
		name := strings.TrimSpace("berth " + driver)
		all = append(all, contender{name, "github.com/berthd/berth/", func(context.Context) (*node.Node, error) {
			return b.World.Berth("berth", ownConfig+bench.BerthConfig(driver))
		}})
	}
	return all
}

// all runs the rounds, each the other way round than the one before, and then the
// pulls under perf.
func (b *benchmark) all(ctx context.Context) error {
	for i := range b.rounds {
		fmt.Printf("round %d of %d:", i+1, b.rounds)
		if err := b.round(ctx, i%2 == 1, func(c contender, packing string, r result) {
			b.results[key{c.name, packing}] = append(b.results[key{c.name, packing}], r)
			fmt.Printf("  %s %s %.2f s", c.name, packing, r.wall.Seconds())
		}, nil); err != nil {
			return err
		}
		fmt.Println()
	}
	if !b.profile {
		return nil
	}
	fmt.Println("once more, under perf")
	b.profiles = map[key]profile.Profile{}
	return b.round(ctx, false, func(contender, string, result) {}, b.profiles)
}

// round has each contender pull each packing once.
func (b *benchmark) round(ctx context.Context, backwards bool, done func(contender, string, result), into map[key]profile.Profile) error {
	for _, packing := range b.packings {
		list := b.contenders()
		if backwards {
			slices.Reverse(list)
		}
		for _, c := range list {
			r, err := b.one(ctx, c, packing, into)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", c.name, packing, err)
			}
			done(c, packing, r)
		}
	}
	return nil
}

// one starts a contender with an empty store, has it pull, and takes it away.
func (b *benchmark) one(ctx context.Context, c contender, packing string, into map[key]profile.Profile) (r result, err error) {
	n, err := c.make(ctx)
	if err != nil {
		return r, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\nend of its log:\n%s", err, n.Tail(15))
		}
		err = errors.Join(err, n.Close())
	}()
	if err := n.Start(ctx); err != nil {
		return r, err
	}
	client, err := n.Client()
	if err != nil {
		return r, err
	}
	defer client.Close()
	// A small image first: what is made at the first pull is not what is measured.
	if _, err := client.Pull(ctx, "docker.io/library/tick:latest"); err != nil {
		return r, err
	}
	if err := meter.Sync(n.Root); err != nil { // what the last one and others have left to write
		return r, err
	}
	space, err := meter.Space(n.Root)
	if err != nil {
		return r, err
	}
	if _, err := b.Registry.TakeCounts(ctx); err != nil {
		return r, err
	}
	if into == nil {
		err = b.pull(ctx, n, client, packing, &r)
	} else {
		err = b.profiled(ctx, n, client, c, packing, into)
	}
	if err != nil {
		return r, err
	}
	start := time.Now()
	if err := meter.Sync(n.Root); err != nil {
		return r, err
	}
	r.sync = time.Since(start)
	after, err := meter.Space(n.Root)
	r.disk = after - space
	return r, err
}

// pull is the pull that counts.
func (b *benchmark) pull(ctx context.Context, n *node.Node, client *node.Client, packing string, r *result) error {
	if err := meter.ResetPeak(n.PID()); err != nil {
		return err
	}
	before, err := b.look(n)
	if err != nil {
		return err
	}
	start := time.Now()
	if _, err := client.Pull(ctx, bench.Host+"/big:"+packing); err != nil {
		return err
	}
	end := time.Now()
	after, err := b.look(n)
	if err != nil {
		return err
	}
	if r.peak, err = meter.Peak(n.PID()); err != nil {
		return err
	}
	r.wall = end.Sub(start)
	used := after.runtime.Sub(before.runtime)
	r.cpu, r.written = used.CPU, used.Written
	r.machine = after.machine - before.machine - (after.others - before.others)
	counts, err := b.Registry.TakeCounts(ctx)
	if err != nil {
		return err
	}
	r.split(start, end, counts)
	r.stages = ownStages(n.Tail(100), "/big:"+packing)
	return nil
}

// A reading is what the meters say at one moment.
type reading struct {
	runtime meter.Usage
	machine time.Duration
	others  time.Duration // the registry and this program
}

func (b *benchmark) look(n *node.Node) (l reading, err error) {
	if l.runtime, err = meter.Of(n.PID()); err != nil {
		return l, err
	}
	if l.machine, err = meter.Machine(); err != nil {
		return l, err
	}
	reg, err := meter.Of(b.Registry.PID())
	if err != nil {
		return l, err
	}
	var self time.Duration
	if self, err = meter.CPU(os.Getpid()); err != nil {
		return l, err
	}
	l.others = reg.CPU + self
	return l, nil
}

// bigBlob is from what size on a blob is a layer, not a document.
const bigBlob = 1 << 20

// split says where the time went, which follows from when the registry was asked for layers.
func (r *result) split(start, end time.Time, counts map[digest.Digest]registry.Count) {
	var first, last time.Time
	for _, c := range counts {
		r.served += c.Bytes
		r.asked += c.Requests
		if c.Bytes < bigBlob {
			continue
		}
		if first.IsZero() || c.First.Before(first) {
			first = c.First
		}
		if c.Last.After(last) {
			last = c.Last
		}
	}
	r.resolve, r.layers, r.tail = first.Sub(start), last.Sub(first), end.Sub(last)
}

// profiled is a pull under perf, whose times do not count.
func (b *benchmark) profiled(ctx context.Context, n *node.Node, client *node.Client, c contender, packing string, into map[key]profile.Profile) error {
	rec, err := profile.Start(ctx, n.PID())
	if errors.Is(err, profile.ErrNoPerf) {
		b.noPerf = err
		return nil
	}
	if err != nil {
		return err
	}
	_, pullErr := client.Pull(ctx, bench.Host+"/big:"+packing)
	p, err := rec.Stop(context.WithoutCancel(ctx), c.owner)
	into[key{c.name, packing}] = p
	return errors.Join(pullErr, err)
}
