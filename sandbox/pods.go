package sandbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/sandbox/apparmor"
	"github.com/berthd/berth/sandbox/selinux"
	"github.com/berthd/berth/shim"
)

// Options are what Open needs. Every field is required unless it says otherwise.
type Options struct {
	Root  string // survives a reboot: records
	State string // a tmpfs: bundles, pod files

	Handlers      map[string]Handler // that a pod may ask for by name, beside ""
	SystemdCgroup bool               // the cgroup driver is systemd's
	CDIDirs       []string           // folders of CDI specifications, the last counting most
	OwnDevices    bool               // device nodes are given to the container's run_as_user and run_as_group
	PauseBinary   string             // static binary that stands still when called "pause"

	SELinux  *selinux.Policy // nil: nothing is labelled
	AppArmor bool            // spec.AppArmorProfile is loaded where the kernel has AppArmor

	Namespaces Namespaces
	Network    Network
	Roots      Roots
	Images     Images
	Tasks      Tasks
	Processes  Processes
	Runtimes   Runtimes // of Handlers with a path; nil without any
	Cgroups    Cgroups  // nil: those of this machine

	Stages StageObserver // nil: nobody

	// CheckShim tells whether the next pod would get a shim; nil: it is not asked.
	CheckShim func(context.Context) error
	// Shims tells what keeps containers alive, without waiting; nil: nobody knows.
	Shims func() []shim.Info

	appArmor   *apparmor.Default           // nil: nobody loads it; made by Open
	noSelfTest bool                        // nothing is tried out; false in use
	pause      func(try int) time.Duration // in place of owedPause; nil in use
}

// owedPause is the pause before DEL is tried again.
func (o Options) owedPause(try int) time.Duration {
	if o.pause != nil {
		return o.pause(try)
	}
	return owedPause(try)
}

// Pods is all pods of the node. It is safe for concurrent use.
type Pods struct {
	opts       Options
	bootID     string
	table      table[*Pod]
	containers *Containers
	userNS     userNSTrial
	handlers   *handlers
	levels     selinux.Levels // of pods, by ID
	events     *Events
	readiness  *Readiness
	failures   failures // of pods and containers
	owing      sync.Map // pod ID to *Pod: those whose address is owed to the network
}

// Run makes a pod and returns its record once it is ready. A repeated call for
// the same metadata joins the creation under way, or returns what it made.
func (ps *Pods) Run(ctx context.Context, spec PodSpec) (PodRecord, error) {
	asked := time.Now()
	err := ps.checkHandler(ctx, spec)
	if err == nil {
		err = ps.checkUserNamespace(spec)
	}
	if err != nil {
		ps.failures.note(Failure{Object: "pod", Name: shownName(spec.Config.GetMetadata())}, nil, err)
		return PodRecord{}, err
	}
	name := podName(spec.Config.GetMetadata())
	for {
		p, _, err := ps.table.claim(name, func() (*Pod, error) { return ps.newPod(spec) })
		if err != nil {
			return PodRecord{}, fmt.Errorf("pod %s: %w", name, err)
		}
		err = p.turn.do(ctx, "pod "+name, "creation", podCreateLimit, &p.trace, func(ctx context.Context) error {
			return ps.create(ctx, p, asked)
		})
		if errors.Is(err, errGone) {
			continue // removed between claim and creation: the name is free now
		}
		if err != nil {
			return PodRecord{}, fmt.Errorf("pod %s: %w", name, err)
		}
		return p.Record(), nil
	}
}

// newPod is a pod of which nothing exists yet.
func (ps *Pods) newPod(spec PodSpec) (*Pod, error) {
	cfg, err := newMessage(spec.Config)
	if err != nil {
		return nil, err
	}
	rec := PodRecord{ID: newID(), State: Creating, BootID: ps.bootID, Handler: spec.Handler,
		CreatedAt: time.Now().UnixNano(), PodConfig: cfg}
	p := newPod(rec, ps.opts.podRecord(rec.ID), ps.events)
	p.trace.observer, p.listed = ps.opts.Stages, &ps.table.changes
	return p, nil
}

// create builds p, which was asked for then, unless that was done before. When it fails and cannot be
// undone either, the pod stays, not ready, so that kubelet finds and removes it.
func (ps *Pods) create(ctx context.Context, p *Pod, asked time.Time) error {
	switch s := p.Record().State; {
	case p.gone.Load():
		return errGone
	case s == Ready:
		return nil
	case s != Creating:
		return fmt.Errorf("is %s: %w", s, ErrNameTaken)
	}
	p.trace.accepted(asked)
	left, err := build(ctx, p, &p.trace, ps.steps())
	ps.readiness.creation(err)
	if left == nil || errors.Is(left, errOwed) { // else it is listed, and tells itself
		ps.failures.note(Failure{Object: "pod", ID: p.Record().ID, Name: p.shownName()}, &p.trace, err)
	}
	switch {
	case left == nil:
	case errors.Is(left, errOwed):
		_ = p.move(Removing, nil)
		ps.owe(ctx, p, left)
		ps.hide(ctx, p)
	default:
		_ = p.move(NotReady, func(r *PodRecord) { r.Reason = err.Error() })
		ps.table.put(p.Record().ID, p)
	}
	return err
}

// Stop takes down what is alive in the pod and gives its addresses back, or sees
// to it that they are given back when the network's plugins work again (owed.go).
// An unknown pod and a stopped one are fine; it may be repeated.
func (ps *Pods) Stop(ctx context.Context, id string) error {
	p, err := ps.table.find(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pod: %w", err)
	}
	return p.turn.do(ctx, p.what(), "stop", 2*teardownLimit, &p.trace, func(ctx context.Context) error {
		return ps.stop(ctx, p)
	})
}

// stop runs inside p's turn.
func (ps *Pods) stop(ctx context.Context, p *Pod) error {
	switch s := p.Record().State; s {
	case Creating, Removing: // a removal does all of a stop
		return nil
	case NotReady:
		if p.Record().NetConf == nil && len(p.members()) == 0 {
			return nil
		}
	}
	if err := p.move(Stopping, nil); err != nil {
		return err
	}
	p.close()
	if err := p.trace.run(ctx, "kill containers", func() error { return ps.killAll(ctx, p) }); err != nil {
		return fmt.Errorf("%s: %w", p.what(), err)
	}
	if p.Record().Owed == "" { // else DEL comes in the background, and what waits for it then
		err := teardown(ctx, p, &p.trace, ps.steps()[firstLive:])
		switch {
		case errors.Is(err, errOwed):
			ps.owe(ctx, p, err)
		case err != nil:
			return fmt.Errorf("%s: %w", p.what(), err)
		}
	}
	return p.move(NotReady, nil)
}

// killAll ends all containers of p at once. One that is being made is waited for:
// in a pod that is closed it does not come into being (created).
func (ps *Pods) killAll(ctx context.Context, p *Pod) error {
	var wg sync.WaitGroup
	members := p.members()
	errs := make([]error, len(members))
	for i, c := range members {
		wg.Go(func() {
			if c.Record().State == Creating {
				errs[i] = c.turn.do(ctx, c.what(), "end of creation", containerCreateLimit, &c.trace, func(context.Context) error { return nil })
			}
			if errs[i] == nil {
				errs[i] = ps.containers.halt(ctx, c, 0)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Remove takes away all of the pod, its containers first and its record last. A
// pod whose address cannot be given back yet is out of sight when it returns
// (owed.go). An unknown pod is fine; it may be repeated.
func (ps *Pods) Remove(ctx context.Context, id string) error {
	p, err := ps.table.find(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pod: %w", err)
	}
	return p.turn.do(ctx, p.what(), "removal", 3*teardownLimit, &p.trace, func(ctx context.Context) error {
		return ps.remove(ctx, p)
	})
}

// remove runs inside p's turn. One that waited for another removal has nothing to
// do.
func (ps *Pods) remove(ctx context.Context, p *Pod) error {
	if p.gone.Load() {
		return nil
	}
	if s := p.Record().State; s != Removing && s != Creating {
		if err := ps.stop(ctx, p); err != nil {
			return err
		}
	}
	p.close()
	err := p.trace.run(ctx, "remove containers", func() error { return ps.removeMembers(ctx, p) })
	if err != nil {
		return fmt.Errorf("%s: %w", p.what(), err)
	}
	if err := p.move(Removing, nil); err != nil {
		return err
	}
	if p.Record().Owed != "" {
		ps.hide(ctx, p)
		return nil
	}
	err = teardown(ctx, p, &p.trace, ps.steps())
	switch {
	case errors.Is(err, errOwed):
		ps.owe(ctx, p, err)
		ps.hide(ctx, p)
	case err != nil:
		return fmt.Errorf("%s: %w", p.what(), err)
	}
	return nil
}

func (ps *Pods) removeMembers(ctx context.Context, p *Pod) error {
	for _, c := range p.members() {
		if err := ps.containers.removeContainer(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// Get returns the pod with that ID or unique prefix of one.
func (ps *Pods) Get(id string) (*Pod, error) {
	p, err := ps.table.find(id)
	if err != nil {
		return nil, fmt.Errorf("pod: %w", err)
	}
	return p, nil
}

// List returns every pod that was ever ready and not yet removed.
func (ps *Pods) List() []*Pod { return ps.table.all() }

// Changes counts the changes of what List returns, and of the records of it. A change that
// is not counted yet may be seen already; one that is counted is seen.
func (ps *Pods) Changes() uint64 { return ps.table.changes.Load() }

// lost marks a pod whose holder ended by itself as not ready.
func (ps *Pods) lost(ctx context.Context, p *Pod, why string) {
	err := p.move(NotReady, func(r *PodRecord) { r.Reason = why })
	if err == nil {
		klog.FromContext(ctx).Info("Pod is not ready any more", "pod", p.Record().ID, "reason", why)
	}
}
