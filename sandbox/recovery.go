package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/netns"
	"github.com/berthd/berth/shim"
	"github.com/berthd/berth/snapshot/durable"
)

// recoverLimit bounds what one container's keeper may take to answer at start, and
// inventoryLimit what all of them may.
const (
	recoverLimit   = 10 * time.Second
	inventoryLimit = 30 * time.Second
)

// recover brings memory in line with the records and the world.
func (n *Node) recover(ctx context.Context) error {
	logLeft(ctx, n.dropTrials(ctx), "what", "of trying the node out")
	seen, err := n.inventory(ctx)
	if err != nil {
		return err
	}
	if err := n.load(ctx); err != nil {
		return err
	}
	tasks := map[string]shim.Task{}
	for _, t := range seen.tasks {
		tasks[t.ID] = t
	}
	var unfinished, stopping []*Pod
	var halfMade []*Container
	var owing []*Pod
	for _, p := range n.Pods.loaded() {
		if p.Record().Owed != "" {
			owing = append(owing, p)
		}
		if p.gone.Load() {
			continue
		}
		if s := p.Record().State; s == Creating || s == Removing {
			unfinished = append(unfinished, p)
			continue
		}
		n.Pods.adopt(ctx, p, seen.pinned)
		if p.Record().State == Stopping {
			stopping = append(stopping, p)
		}
		for _, c := range p.members() {
			if s := c.Record().State; s == Creating || s == Removing {
				halfMade = append(halfMade, c)
			}
		}
	}
	parallel(n.Containers.List(), func(c *Container) { n.Containers.adopt(ctx, c, tasks) })
	// Their turns are taken now: a retry of a creation that was cut short waits.
	slots := make(chan struct{}, width)
	for _, c := range halfMade {
		n.Containers.takeDown(slots, c)
	}
	for _, p := range unfinished {
		n.Pods.takeDown(slots, p)
	}
	for _, p := range stopping {
		n.Containers.finishing(slots, &p.turn, "pod", p.Record().ID, func(ctx context.Context) error { return n.Pods.stop(ctx, p) })
	}
	orphans, live := n.orphans(seen), n.attachments()
	n.Containers.background(func(ctx context.Context) {
		// Before namespaces go: plugins look into them.
		n.collectAddresses(ctx, live)
		parallel(orphans, func(id string) { logLeft(ctx, n.sweep(ctx, id), "id", id) })
		for _, p := range owing { // GC waits for DELs under way: these come after it
			n.Containers.background(func(ctx context.Context) { n.Pods.settle(ctx, p) })
		}
		if len(orphans) > 0 { // an image that was removed meanwhile could not take its layers with it
			_ = n.Containers.collect(ctx, nil)
		}
	})
	return nil
}

// dropTrials takes away what trying the node out has left where the daemon was killed.
// The sweep would too, but while the node is tried out again under the same names.
func (n *Node) dropTrials(ctx context.Context) error {
	o := n.Pods.opts
	return errors.Join(o.Namespaces.Remove(ctx, probeID), o.Namespaces.Remove(ctx, selfTestID),
		durable.Sweep(o.Root), durable.Sweep(o.State))
}

// collectAddresses gives back the addresses of pods that are no more. With a
// record that could not be read there is no telling which those are.
func (n *Node) collectAddresses(ctx context.Context, live []netns.Attachment) {
	if len(n.unread) > 0 {
		klog.FromContext(ctx).Info("Records could not be read; addresses that no record has are looked for at the next start", "records", n.unread)
		return
	}
	logLeft(ctx, n.Pods.opts.Network.GC(ctx, live), "what", "addresses of pods that are no more")
}

// attachments are the pods on record that may have something of the network, in
// whatever state they are: each is undone by its own teardown, and by nothing
// beside it.
func (n *Node) attachments() []netns.Attachment {
	var live []netns.Attachment
	for _, p := range n.Pods.loaded() {
		if r := p.Record(); r.NetConf != nil {
			live = append(live, attachment(r))
		}
	}
	return live
}

// seen is what exists in the world before anything new is made.
type seen struct {
	tasks  []shim.Task
	pinned []string        // pods with namespaces
	ids    map[string]bool // every ID that anything goes by
}

// inventory lists everything that goes by an ID of ours.
func (n *Node) inventory(ctx context.Context) (seen, error) {
	o := n.Pods.opts
	s := seen{ids: map[string]bool{}}
	limited, cancel := context.WithTimeout(ctx, inventoryLimit)
	defer cancel()
	var err error
	if s.tasks, err = o.Processes.Tasks(limited); err != nil {
		return s, fmt.Errorf("list tasks: %w", err)
	}
	for _, t := range s.tasks {
		s.ids[t.ID] = true
	}
	names, err := o.Namespaces.List()
	if err != nil {
		return s, fmt.Errorf("list namespaces: %w", err)
	}
	s.pinned = slices.Clone(names)
	roots, err := o.Roots.ListRoots(ctx)
	if err != nil {
		return s, fmt.Errorf("list root filesystems: %w", err)
	}
	for _, dir := range []string{filepath.Join(o.Root, "pods"), filepath.Join(o.State, "pods"), filepath.Join(o.State, "containers")} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return s, fmt.Errorf("list: %w", err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	for _, id := range append(names, roots...) {
		s.ids[id] = true
	}
	return s, nil
}

// orphans are the IDs in s that no record has. Those whose record could not be
// read are not among them.
//
// The self-test is not among them either: it may be under way.
func (n *Node) orphans(s seen) []string {
	delete(s.ids, selfTestID)
	for _, id := range n.unread {
		delete(s.ids, id)
	}
	for _, p := range n.Pods.loaded() {
		delete(s.ids, p.Record().ID)
		for _, c := range p.members() {
			delete(s.ids, c.Record().ID)
		}
	}
	var ids []string
	for id := range s.ids {
		if isID(id) { // what goes by another name is not ours, and is left alone
			ids = append(ids, id)
		}
	}
	return ids
}

// sweep removes everything that goes by an ID, pod's or container's.
func (n *Node) sweep(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, teardownLimit)
	defer cancel()
	o := n.Pods.opts
	klog.FromContext(ctx).Info("Removing what no record owns", "id", id)
	if err := o.Tasks.Delete(ctx, id); err != nil {
		return err
	}
	for _, m := range []string{filepath.Join(o.podFiles(id), pidPin), filepath.Join(o.rootfs(id), pauseName), o.targetPin(id)} {
		if err := unmount(m); err != nil {
			return err
		}
	}
	if err := n.Containers.removeRoot(ctx, id); err != nil {
		return err
	}
	if err := o.Namespaces.Remove(ctx, id); err != nil {
		return err
	}
	if err := removePodFiles(o.podFiles(id)); err != nil {
		return err
	}
	if err := os.RemoveAll(o.podDir(id)); err != nil {
		return fmt.Errorf("pod folder: %w", err)
	}
	return nil
}

// adopt takes up a pod that the previous process left; pinned are those that have
// namespaces.
func (ps *Pods) adopt(ctx context.Context, p *Pod, pinned []string) {
	r := p.Record()
	ps.table.put(r.ID, p)
	p.live.Store(r.State == Ready || r.State == Stopping)
	switch {
	case r.State != Ready:
	case r.BootID != ps.bootID:
		ps.lost(ctx, p, "the node was rebooted")
	case r.Namespaces != (netns.Paths{}) && !slices.Contains(pinned, r.ID):
		ps.lost(ctx, p, "its namespaces are gone: the state folder was emptied")
	default:
		ps.watch(p)
	}
}

// adopt takes up a container that the previous process left: what its keeper
// says, or its exit record, or that nothing of it can be left.
func (cs *Containers) adopt(ctx context.Context, c *Container, tasks map[string]shim.Task) {
	r := c.Record()
	if r.State != Created && r.State != Running || r.Refusal != "" {
		return
	}
	if r.BootID != cs.bootID {
		_ = c.move(Exited, func(r *ContainerRecord) {
			r.FinishedAt, r.ExitCode, r.Reason = time.Now().UnixNano(), codeUnknown, ReasonRebooted
			r.Message = "the node was rebooted while the container ran"
		})
		return
	}
	status := tasks[r.ID].Status
	if status == shim.StatusRunning && r.State == Created { // killed between the start and its record
		_ = c.runs()
	}
	cs.watch(c)
	if status == shim.StatusRunning || status == shim.StatusCreated {
		return
	}
	if errors.Is(tasks[r.ID].Err, shim.ErrNoAnswer) { // it is listed as it was until its keeper says
		if r.State == Created {
			cs.background(func(ctx context.Context) { cs.learn(ctx, c) })
		}
		return
	}
	// It has ended, or its keeper does not say. The first List should know; but a
	// keeper that does not answer now is no state of the container.
	ctx, cancel := context.WithTimeout(ctx, recoverLimit)
	defer cancel()
	select {
	case <-c.exited:
	case <-ctx.Done():
		klog.FromContext(ctx).Info("The keeper of a container does not answer yet; it is listed as it was", "container", r.ID)
	}
}

// learnPause is how often a keeper that does not answer is asked whether a container runs.
const learnPause = 100 * time.Millisecond

// learn finds out whether a container that is on record as created runs: the previous process may
// have been killed between the start and its record. It ends with the keeper's answer.
func (cs *Containers) learn(ctx context.Context, c *Container) {
	for c.Record().State == Created {
		st, err := cs.opts.Processes.State(ctx, c.Record().ID)
		if err == nil && st.Status == shim.StatusRunning {
			_ = c.runs()
		}
		if !errors.Is(err, shim.ErrNoAnswer) {
			return
		}
		timer := time.NewTimer(learnPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// takeDown begins to remove a pod whose creation or removal was cut short. A
// retry of its creation waits for that and starts afresh.
func (ps *Pods) takeDown(slots chan struct{}, p *Pod) {
	ps.containers.finishing(slots, &p.turn, "pod", p.Record().ID, func(ctx context.Context) error {
		for _, c := range p.members() { // nobody watches them: they go by undoing alone
			err := c.turn.do(ctx, c.what(), "recovery", 2*teardownLimit, &c.trace, func(ctx context.Context) error {
				return teardown(ctx, c, &c.trace, ps.containers.steps())
			})
			if err != nil {
				klog.FromContext(ctx).Error(err, "Container of a half-made pod not removed yet", "container", c.Record().ID)
			}
		}
		err := ps.remove(ctx, p)
		if err != nil { // kubelet finds it, not ready, and removes it
			ps.table.put(p.Record().ID, p)
		}
		return err
	})
}

// takeDown begins to remove a container whose creation or removal was cut short.
func (cs *Containers) takeDown(slots chan struct{}, c *Container) {
	cs.finishing(slots, &c.turn, "container", c.Record().ID, func(ctx context.Context) error {
		err := cs.remove(ctx, c)
		if err != nil { // kubelet finds it, exited, and removes it
			_ = c.note(func(r *ContainerRecord) {
				r.FinishedAt, r.ExitCode, r.Reason, r.Message = time.Now().UnixNano(), codeUnknown, ReasonError, err.Error()
			})
			cs.table.put(c.Record().ID, c)
		}
		return err
	})
}

// finishing takes an object's turn at once and lets undo run in it, as soon as
// there is a slot. Close waits for it, within closeLimit.
func (cs *Containers) finishing(slots chan struct{}, t *turn, what, id string, undo func(context.Context) error) {
	f, _ := t.take(cs.base, what+" "+id, "recovery", 3*teardownLimit, func(ctx context.Context) error {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		case <-ctx.Done():
			return ctx.Err()
		}
		return undo(ctx)
	})
	cs.background(func(ctx context.Context) {
		select {
		case <-f.done:
		case <-ctx.Done():
			timer := time.NewTimer(closeLimit)
			defer timer.Stop()
			select {
			case <-f.done:
			case <-timer.C: // the next daemon goes on with it
				return
			}
		}
		logLeft(ctx, f.err, what, id)
	})
}

// closeLimit is how long a daemon that stops waits for what it is taking down.
const closeLimit = 10 * time.Second
