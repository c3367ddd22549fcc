package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/bench"
	"github.com/berthd/berth/test/node"
)

// warmImage is the image of the pods beside a pull.
const warmImage = "docker.io/library/busybox:latest"

// A measured is what one runtime took.
type measured struct {
	name   string
	took   []time.Duration // of each pod of the cold image
	served int64           // bytes that the registry sent for them
	size   int64           // bytes that are one copy
	asked  int             // GETs

	idle, during []bench.Sample
	pulls        int64 // of the big image, begun
}

// A benchmark is the measurement under way.
type benchmark struct {
	setting
	*bench.Place
	all []measured
}

func (b *benchmark) image() string { return bench.Host + "/big:" + b.packing }

// cold runs the pods of the image that is not there, and removes it.
func (b *benchmark) cold(ctx context.Context, c *node.Client, logs string, m *measured) error {
	sizes, err := b.Layout.Sizes(b.packing)
	if err != nil {
		return err
	}
	for _, size := range sizes {
		m.size += size
	}
	if _, err := b.Registry.TakeCounts(ctx); err != nil {
		return err
	}
	if m.took, err = bench.Together(ctx, c, b.image(), logs, b.together, nil); err != nil {
		return err
	}
	counts, err := b.Registry.TakeCounts(ctx)
	if err != nil {
		return err
	}
	for _, n := range counts {
		m.served += n.Bytes
		m.asked += n.Requests
	}
	fmt.Printf("%s: %d pods of a cold image: %d bytes served\n", m.name, b.together, m.served)
	return remove(ctx, c, b.image())
}

func remove(ctx context.Context, c *node.Client, image string) error {
	_, err := c.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: image}})
	return err
}

// warm runs pods of the warm image, in turns without and with a pull of the big image.
func (b *benchmark) warm(ctx context.Context, c *node.Client, logs string, m *measured) error {
	if _, err := c.Pull(ctx, warmImage); err != nil {
		return err
	}
	always := func() (int64, bool) { return 0, true }
	if _, err := bench.Beside(ctx, c, warmImage, logs, "first", 3, always); err != nil { // warms up
		return err
	}
	for i := range b.turns {
		n := b.pods*(i+1)/b.turns - b.pods*i/b.turns
		some, err := bench.Beside(ctx, c, warmImage, logs, fmt.Sprint("idle-", i), n, always)
		if err != nil {
			return err
		}
		m.idle = append(m.idle, some...)
		p := b.startPulls(ctx, c)
		some, err = bench.Beside(ctx, c, warmImage, logs, fmt.Sprint("during-", i), n, p.underWay)
		if err := errors.Join(err, p.stop()); err != nil {
			return err
		}
		m.during = append(m.during, some...)
		m.pulls += p.begun.Load()
		fmt.Printf("%s: turn %d of %d: p50 %s idle, %s during a pull\n", m.name, i+1, b.turns,
			milliseconds(bench.Quantile(ups(m.idle), 0.5)), milliseconds(bench.Quantile(ups(m.during), 0.5)))
	}
	return nil
}

// A pulls is pulls of the big image, one after the other, each into a store without it.
type pulls struct {
	begun  atomic.Int64
	active atomic.Bool // between the call and its answer, not while the image is removed
	cancel context.CancelFunc
	done   chan error
}

func (b *benchmark) startPulls(ctx context.Context, c *node.Client) *pulls {
	clean := context.WithoutCancel(ctx)
	ctx, cancel := context.WithCancel(ctx)
	p := &pulls{cancel: cancel, done: make(chan error, 1)}
	go func() {
		var err error
		for err == nil && ctx.Err() == nil {
			p.begun.Add(1)
			p.active.Store(true)
			_, err = c.Pull(ctx, b.image())
			p.active.Store(false)
			if ctx.Err() != nil {
				err = nil // by us
			}
			if err == nil {
				err = remove(clean, c, b.image())
			}
		}
		p.done <- err
	}()
	return p
}

// underWay tells which pull is, if one is.
func (p *pulls) underWay() (int64, bool) {
	select {
	case err := <-p.done: // it has failed; stop says how
		p.done <- err
		return 0, true
	default:
		return p.begun.Load(), p.active.Load()
	}
}

func (p *pulls) stop() error {
	p.cancel()
	return <-p.done
}

func ups(samples []bench.Sample) (all []time.Duration) {
	for _, s := range samples {
		all = append(all, s.Up())
	}
	return all
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }
