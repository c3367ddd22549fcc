package sandbox

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/sandbox/apparmor"
	"github.com/berthd/berth/sandbox/cgroupstat"
	"github.com/berthd/berth/sandbox/spec"
	"github.com/berthd/berth/snapshot"
)

// A Node is the pods and containers of this node.
type Node struct {
	Pods       *Pods
	Containers *Containers
	Events     *Events // of both
	Stats      *Stats
	Readiness  *Readiness

	unread []string // IDs whose records could not be read at the start
}

// Open reads the records under o.Root and takes up what they say: what runs is
// adopted, what was being made or removed is taken down, and what belongs to no
// record is removed, the last two in the background. When it returns, List tells
// the truth, save of containers whose keeper has not answered for some seconds. ctx carries the logger; Close ends the background work.
func Open(ctx context.Context, o Options) (*Node, error) {
	boot, err := snapshot.BootID()
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{filepath.Join(o.Root, "pods"), filepath.Join(o.State, "pods"), filepath.Join(o.State, "containers")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("folders: %w", err)
		}
	}
	if o.Cgroups == nil {
		if o.Cgroups, err = cgroupstat.Find(); err != nil {
			return nil, err
		}
	}
	if o.AppArmor {
		o.appArmor = apparmor.NewDefault(spec.AppArmorProfile)
	}
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	cs := &Containers{opts: o, bootID: boot, base: base, cancel: cancel}
	ps := &Pods{opts: o, bootID: boot, containers: cs, events: &Events{}}
	cs.pods = ps
	ps.handlers = &handlers{named: o.Handlers, runtimes: o.Runtimes, background: cs.background}
	ps.readiness = &Readiness{background: cs.background, base: base, now: time.Now}
	if !o.noSelfTest {
		ps.readiness.stages = o.selfTest()
	}
	n := &Node{Pods: ps, Containers: cs, Events: ps.events, Stats: newStats(cs), Readiness: ps.readiness}
	if err := n.recover(ctx); err != nil {
		n.Close()
		return nil, err
	}
	ps.userNS.first(ctx, cs.background, ps.tryUserNamespaces)
	ps.handlers.first()
	cs.replaceAppArmor()
	n.Readiness.first(ctx)
	return n, nil
}

// Close ends the background work and all subscriptions. Containers go on.
func (n *Node) Close() {
	n.Events.Close()
	n.Containers.close()
}

// width is how many objects are looked after at once when there are many.
const width = 16

// parallel runs do for every item, a few at a time, and waits for all.
func parallel[T any](items []T, do func(T)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, width)
	for _, item := range items {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			do(item)
		})
	}
	wg.Wait()
}

// logLeft logs what could not be taken down; it is tried again at the next start.
func logLeft(ctx context.Context, err error, what, id string) {
	if err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Left behind; it is tried again at the next start", what, id)
	}
}
