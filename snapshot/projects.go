package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/snapshot/quota"
)

// Where the file system counts by projects, the writable layer of each container has an ID
// of its own, which its record has too, and its usage is one question. The ID is on fs/ and
// work/ and on nothing above them: what is inside can then be renamed into the trash, which
// file systems allow between projects only where the target inherits none.

// openProjects decides, once, how writable layers are measured, and gives those that are
// there their IDs and limit again. It comes before anything is deleted.
func (o *overlay) openProjects(ctx context.Context) error {
	if _, ok := o.laying.(overlays); !ok {
		if o.limits.Writable > 0 {
			return errors.New("snapshot.writable_limit works with the drivers erofs and overlay only: choose one of them, or set it to 0")
		}
		return nil
	}
	projects, err := o.findProjects()
	switch {
	case err == nil && projects.Enforced():
	case o.limits.Writable > 0:
		return limitImpossible(o.dir, err)
	}
	if err != nil {
		klog.FromContext(ctx).Info("Writable layers are measured by walking them", "reason", err)
		return nil
	}
	klog.FromContext(ctx).Info("Writable layers are measured by project quota", "limit", o.limits.Writable)
	o.projects = projects
	if err := o.freeThrown(); err != nil {
		return err
	}
	return o.adopt(ctx)
}

func (o *overlay) findProjects() (*quota.Projects, error) {
	find := o.limits.ledger
	if find == nil {
		find = quota.Kernel
	}
	ledger, err := find(o.dir)
	if err != nil {
		return nil, err
	}
	return quota.Open(o.path("tmp"), ledger)
}

// limitImpossible says what to do about a limit that nothing keeps.
func limitImpossible(dir string, cause error) error {
	if cause == nil {
		cause = errors.New("quotas of projects are counted there and their limits are off")
	}
	return fmt.Errorf("snapshot.writable_limit needs the file system of %s, ext4 or XFS, to be mounted with the option prjquota "+
		"(ext4: first \"tune2fs -O project,quota -Q prjquota DEVICE\", while it is not mounted; XFS as the root file system: rootflags=prjquota for the kernel); "+
		"or set it to 0: %w", dir, cause)
}

// adopt gives the writable layers that are there their IDs and limit again.
func (o *overlay) adopt(ctx context.Context) error {
	roots, err := os.ReadDir(o.path("roots"))
	if err != nil {
		return err
	}
	var unread []string
	for _, e := range roots { // what is on record counts for more than what a directory says, which its container may have changed
		rec, err := o.readRoot(e.Name())
		switch {
		case err != nil:
			unread = append(unread, e.Name())
		case rec.Project != 0 && !o.projects.Adopt(e.Name(), rec.Project):
			klog.FromContext(ctx).Info("A snapshot's project ID is none of ours, or another's too; it is measured by walking it", "snapshot", e.Name(), "project", rec.Project)
		}
	}
	for _, id := range unread {
		o.projects.Adopt(id, quota.Found(o.path("roots", id, "fs")))
	}
	for _, e := range roots {
		if err := o.limit(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// freeThrown takes the limits away that a crash has left with what was thrown away.
func (o *overlay) freeThrown() error {
	thrown, err := os.ReadDir(o.trash.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range thrown {
		var rec rootRecord
		_ = readRecord(filepath.Join(o.trash.dir, e.Name(), "root.json"), &rec) // else the directory knows
		errs = append(errs, o.projects.Free(cmp.Or(rec.Project, quota.Found(filepath.Join(o.trash.dir, e.Name(), "fs")))))
	}
	return errors.Join(errs...)
}

// count gives the empty writable layer in dir an ID.
func (o *overlay) count(dir string, rec *rootRecord) (err error) {
	if o.projects != nil {
		rec.Project, err = o.projects.Assign(rec.id, filepath.Join(dir, "fs"), filepath.Join(dir, "work"))
	}
	return err
}

// limit limits the writable layer of container id.
func (o *overlay) limit(id string) error {
	if o.projects == nil {
		return nil
	}
	return o.projects.Limit(id, o.limits.Writable)
}

// uncount takes the ID and the limit of container id away, if it has any.
func (o *overlay) uncount(id string) error {
	if o.projects == nil {
		return nil
	}
	return o.projects.Release(id)
}

// counted is what the file system counts for container id; false when it does not. It
// counts what overlayfs keeps in work/ too, a few folders, and files that are open and have
// no name any more.
func (o *overlay) counted(id string) (Usage, bool, error) {
	if o.projects == nil {
		return Usage{}, false, nil
	}
	entry, ok, err := o.projects.Usage(id)
	return Usage{Bytes: entry.Bytes, Inodes: entry.Inodes}, ok, err
}
