package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/berthd/berth/test/images"
	"github.com/berthd/berth/test/leaks"
	"github.com/berthd/berth/test/node"
)

// rootSize is that of the file system that is filled now and then.
const rootSize = "size=1g,mode=711"

// A node in motion.
type motion struct {
	setting
	world   *node.World
	node    *node.Node
	client  *node.Client
	plugins *plugins
	gate    *gate // before the registry
	parent  string
	metrics string // where berthd's figures are

	slots    []*slot
	images   *gallery
	troubles troubles
	empty    leaks.Snapshot // of the node without pods
	samples  []sample
	counts   counts

	mu       sync.Mutex
	findings []string
}

// find notes what should not be.
func (m *motion) find(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.findings = append(m.findings, fmt.Sprintf(format, args...))
}

func (m *motion) found() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.findings)
}

// soak runs the rounds, and says a line for each. What it made goes away also when it fails.
func soak(ctx context.Context, s setting, say func(string)) (err error) {
	w, err := node.NewWorld(ctx)
	if err != nil {
		return err
	}
	clean := context.WithoutCancel(ctx)
	defer func() { err = errors.Join(err, w.Close(clean)) }()
	m := &motion{setting: s, world: w}
	closing, err := m.open(ctx)
	defer func() {
		for _, c := range slices.Backward(closing) {
			err = errors.Join(err, c())
		}
	}()
	if err != nil {
		return err
	}
	say(fmt.Sprintf("%d pods, %s of motion in rounds of %s, seed %d", s.pods, s.duration, s.round, s.seed))
	random := rand.New(rand.NewPCG(s.seed, 1))
	for spent, n := time.Duration(0), 1; spent < s.duration && ctx.Err() == nil; spent, n = spent+s.round, n+1 {
		if err := m.turn(ctx, n, random); err != nil {
			return fmt.Errorf("end of berthd's log:\n%s\nround %d, seed %d: %w", m.node.Tail(30), n, s.seed, err)
		}
		say(m.line(n))
		if found := m.found(); len(found) > 0 {
			return fmt.Errorf("end of berthd's log:\n%s\nround %d, seed %d: %d findings:\n\t%s", m.node.Tail(30), n, s.seed, len(found), strings.Join(found[:min(len(found), 60)], "\n\t"))
		}
	}
	if err := errors.Join(m.bounded(), m.end(clean)); err != nil {
		return err
	}
	return m.report(say)
}

// turn is a round: motion and troubles, and when both are over, a look at everything.
func (m *motion) turn(ctx context.Context, n int, random *rand.Rand) error {
	moving, stop := context.WithTimeout(ctx, m.round)
	defer stop()
	var group sync.WaitGroup
	for i := range m.workers {
		r := rand.New(rand.NewPCG(m.seed+uint64(i), uint64(n)))
		group.Go(func() { m.work(ctx, moving, r) })
	}
	err := m.trouble(ctx, moving, n, random)
	group.Wait()
	if err != nil || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	if err := m.settle(ctx); err != nil {
		return err
	}
	begun := time.Now()
	if err := m.look(ctx); err != nil {
		return err
	}
	return m.measure(ctx, n, time.Since(begun))
}

// open makes the node. What it returns is to be called, the last first, also with an error.
func (m *motion) open(ctx context.Context) (closing []func() error, err error) {
	clean := context.WithoutCancel(ctx)
	w := m.world
	if m.plugins, err = wrapPlugins(w); err != nil {
		return closing, err
	}
	if m.gate, err = openGate(w.Registry.Addr); err != nil {
		return closing, err
	}
	closing = append(closing, m.gate.close)
	if err := (&images.Registry{Addr: m.gate.addr()}).WriteCerts(w.Certs, false); err != nil {
		return closing, err
	}
	if m.metrics, err = freePort(ctx); err != nil {
		return closing, err
	}
	extra := fmt.Sprintf("pods_per_process = 16\n[metrics]\naddress = %q\n%s", m.metrics, node.CgroupDriver()) // the first below [shim]
	if m.node, err = w.Berth("berth", extra); err != nil {
		return closing, err
	}
	closing = append(closing, m.node.Close)
	if m.node.Manager, err = node.NewManager(w.Dir); err != nil {
		return closing, err
	}
	closing = append(closing, m.node.Manager.Close, m.node.Stop)
	if err := mountTmpfs(m.node.Root, rootSize); err != nil {
		return closing, err
	}
	closing = slices.Insert(closing, 2, func() error { return unmount(m.node.Root) })
	m.parent = fmt.Sprintf("/soak-%d", os.Getpid())
	if err := makeCgroup(m.parent); err != nil {
		return closing, err
	}
	closing = slices.Insert(closing, 2, func() error { return removeCgroup(m.parent) })
	if err := m.node.StartFresh(ctx); err != nil {
		return closing, err
	}
	if m.client, err = m.node.Client(); err != nil {
		return closing, err
	}
	closing = append(closing, func() error {
		defer m.client.Close()
		if m.node.PID() == 0 {
			return nil // it has come to its end
		}
		err := m.client.RemoveAll(clean)
		if len(m.found()) > 0 {
			return nil // that they may be in the way of it is known
		}
		return err
	})
	return closing, m.begin(ctx)
}

// begin pulls what the pods need and notes what is there without any.
func (m *motion) begin(ctx context.Context) (err error) {
	for _, image := range []string{busybox, tick} {
		if _, err := m.client.Pull(ctx, image); err != nil {
			return err
		}
	}
	m.images = newGallery()
	for i := range m.pods {
		m.slots = append(m.slots, &slot{number: i})
	}
	m.empty, err = leaks.Take(ctx, m.watched()...)
	return err
}

func (m *motion) watched() []string {
	return []string{filepath.Join(m.node.Root, "pods"), m.node.State}
}

// end removes everything, and expects the node and the machine as they were. What a pull that
// was cut short left is spared for an hour, or until the next start and removal.
func (m *motion) end(ctx context.Context) error {
	if err := errors.Join(m.client.RemoveAll(ctx), m.node.Stop(), m.node.Start(ctx)); err != nil {
		return err
	}
	if err := m.dropImage(ctx, tick); err != nil {
		return err
	}
	left, err := m.node.LeftBehind(ctx)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("left by berthd:\n\t%s", strings.Join(left, "\n\t"))
	}
	return err
}

// freePort is a loopback address that nobody listens on.
func freePort(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
