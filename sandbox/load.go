package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/klog/v2"
)

// load reads all records. One that is damaged is as good as none: what it named
// is swept.
func (n *Node) load(ctx context.Context) error {
	dirs, err := os.ReadDir(filepath.Join(n.Pods.opts.Root, "pods"))
	if err != nil {
		return fmt.Errorf("records: %w", err)
	}
	var read []*Pod
	for _, d := range dirs {
		if !isID(d.Name()) {
			klog.FromContext(ctx).Info("No pod's folder; it is left alone", "path", filepath.Join(n.Pods.opts.Root, "pods", d.Name()))
			continue
		}
		if !d.IsDir() { // it has a name of ours, and is swept
			continue
		}
		path := n.Pods.opts.podRecord(d.Name())
		var rec PodRecord
		if !n.usable(ctx, loadRecord(path, &rec), rec.ID, d.Name()) {
			n.spareMembers(d.Name())
			continue
		}
		if rec.Level != "" {
			n.Pods.levels.Keep(rec.ID, rec.Level)
		}
		p := newPod(rec, path, n.Events)
		p.trace.observer, p.listed = n.Pods.opts.Stages, &n.Pods.table.changes
		read = append(read, p)
	}
	// A pod on its way out may have given up its name: it comes last, and a ready one,
	// which has its name for sure, first.
	slices.SortStableFunc(read, func(a, b *Pod) int { return cmp.Compare(rank(a), rank(b)) })
	for _, p := range read {
		rec := p.Record()
		if rec.Owed != "" {
			n.Pods.owing.Store(rec.ID, p)
			if rec.State == Removing { // hidden
				p.gone.Store(true)
				continue
			}
		}
		name := podName(rec.Config().GetMetadata())
		if _, isNew, _ := n.Pods.table.claim(name, func() (*Pod, error) { return p, nil }); !isNew {
			if rec.Owed != "" { // it was hidden, and there was no space to write that down
				_ = p.move(Removing, nil)
				p.gone.Store(true)
				continue
			}
			klog.FromContext(ctx).Info("Two pod records of one name; the second is removed", "id", rec.ID, "name", name)
			continue
		}
		n.loadContainers(ctx, p)
	}
	return nil
}

// rank orders pods that claim the same name.
func rank(p *Pod) int {
	switch p.Record().State {
	case Ready:
		return 0
	case Removing:
		return 2
	}
	return 1
}

// usable tells whether a record could be read and is the one of that name. One
// that is damaged is as good as none, and what it named is swept. One that cannot
// be read (no descriptors left, a bad disk) may be whole: what it names is left
// alone until the next start.
func (n *Node) usable(ctx context.Context, err error, got, id string) bool {
	switch {
	case err == nil && got == id:
		return true
	case err == nil, errors.Is(err, errDamaged), errors.Is(err, fs.ErrNotExist):
		// After a power cut that is what is left of a pod that nobody was promised.
		klog.FromContext(ctx).Info("A record is damaged; what it names is ended and removed", "id", id, "err", cmp.Or(err, fmt.Errorf("it is of %.100q", got)))
	default:
		klog.FromContext(ctx).Error(err, "Record cannot be read; what it names is left alone until the next start", "id", id)
		n.unread = append(n.unread, id)
	}
	return false
}

// spareMembers spares the containers of a pod whose record could not be read.
func (n *Node) spareMembers(podID string) {
	if !slices.Contains(n.unread, podID) {
		return
	}
	entries, _ := os.ReadDir(filepath.Join(n.Pods.opts.podDir(podID), "containers"))
	for _, e := range entries {
		n.unread = append(n.unread, strings.TrimSuffix(e.Name(), ".json"))
	}
}

func (n *Node) loadContainers(ctx context.Context, p *Pod) {
	dir := filepath.Join(n.Pods.opts.podDir(p.Record().ID), "containers")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		klog.FromContext(ctx).Error(err, "Container records cannot be read", "pod", p.Record().ID)
	}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		path := filepath.Join(dir, e.Name())
		var rec ContainerRecord
		if !n.usable(ctx, loadRecord(path, &rec), rec.ID, id) {
			continue
		}
		n.Containers.keepLevel(rec)
		c := newContainer(p, rec, path)
		c.listed = &n.Containers.table.changes
		name := containerName(rec.PodID, rec.Config().GetMetadata())
		_, _, _ = n.Containers.table.claim(name, func() (*Container, error) { return c, nil })
		p.containers[id] = c
		if rec.State == Exited {
			c.exitOnce.Do(func() { close(c.exited) })
		}
		if rec.State != Creating && p.Record().State != Creating {
			n.Containers.table.put(id, c)
		}
	}
}

// loaded returns all pods that have a name, listed or not, and the hidden ones.
func (ps *Pods) loaded() []*Pod {
	var list []*Pod
	ps.owing.Range(func(_, v any) bool {
		if p := v.(*Pod); p.gone.Load() {
			list = append(list, p)
		}
		return true
	})
	ps.table.mu.Lock()
	defer ps.table.mu.Unlock()
	for _, p := range ps.table.byName {
		list = append(list, p)
	}
	return list
}
