package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"k8s.io/klog/v2"
)

// rootRecord is root.json: what a container's snapshot stands on. It is written
// without waiting for the disk, with the directory whose rename makes it seen.
type rootRecord struct {
	BootID string          `json:"bootID"`
	Layers []digest.Digest `json:"layers"` // base first, as given
	Seal   string          `json:"seal"`
	IDs    IDMap           `json:"ids,omitzero"`   // whose root owns the writable layer
	Since  time.Time       `json:"since,omitzero"` // of a tree of its own: what changed later is the container's
	// Project is the ID that the file system counts the writable layer by (projects.go).
	Project uint32 `json:"project,omitempty"`

	id string
}

// uses names the layers and the seal that r stands on.
func (r rootRecord) uses() []string {
	out := []string{r.Seal}
	for _, d := range r.Layers {
		if name, err := layerName(d); err == nil {
			out = append(out, name)
		}
	}
	return out
}

func (o *overlay) readRoot(id string) (rec rootRecord, err error) {
	err = readRecord(o.path("roots", id, "root.json"), &rec)
	return rec, err
}

// use notes that the container stands on names. It needs the lock, or that nobody else
// has the driver yet.
func (o *overlay) use(id string, names []string) {
	for _, name := range names {
		if o.users[name] == nil {
			o.users[name] = make(map[string]struct{})
		}
		o.users[name][id] = struct{}{}
	}
}

// useAll keeps every layer and seal there is for a container whose record could not be
// read, until Remove or the next start.
func (o *overlay) useAll(ctx context.Context, id string, cause error) error {
	klog.FromContext(ctx).Error(cause, "A snapshot's record cannot be read; all layers stay until the next start", "snapshot", id)
	for _, kind := range []string{"layers", "seals"} {
		found, err := os.ReadDir(o.path(kind))
		if err != nil {
			return err
		}
		for _, e := range found {
			o.use(id, []string{e.Name()})
		}
	}
	return nil
}

// unuse undoes use for whatever the container stands on, and names what nobody stands on
// any more.
func (o *overlay) unuse(id string) (idle []string) {
	for name, users := range o.users {
		delete(users, id)
		if len(users) == 0 {
			delete(o.users, name)
			idle = append(idle, name)
		}
	}
	return idle
}

// closeAll has the format close the seals among names, and deletes damaged layers.
func (o *overlay) closeAll(ctx context.Context, names []string) error {
	errs := []error{o.emptyDamaged(ctx, names)}
	for _, name := range names {
		if _, layer := layerID(name); !layer {
			errs = append(errs, o.format.close(ctx, name))
		}
	}
	return errors.Join(errs...)
}

// Prepare implements Roots.
func (o *overlay) Prepare(ctx context.Context, id string, diffIDs []digest.Digest, opts ...RootOption) ([]Mount, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	rec := rootRecord{BootID: o.bootID, Layers: diffIDs, id: id}
	for _, o := range opts {
		o(&rec)
	}
	mounts, err := o.prepare(ctx, id, rec)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", id, err)
	}
	return mounts, nil
}

func (o *overlay) prepare(ctx context.Context, id string, rec rootRecord) ([]Mount, error) {
	var err error
	if rec.Seal, err = sealName(rec.Layers); err != nil {
		return nil, err
	}
	have, err := o.readRoot(id)
	switch {
	case err == nil && have.Seal != rec.Seal:
		return nil, fmt.Errorf("made for other layers: %w", ErrInUse)
	case err == nil && (have.IDs.HostID != rec.IDs.HostID || have.IDs.Size != rec.IDs.Size):
		return nil, fmt.Errorf("made for another user namespace: %w", ErrInUse)
	case err == nil && have.BootID != o.bootID:
		if err := o.Remove(ctx, id); err != nil {
			return nil, err
		}
	case err != nil && !errors.Is(err, ErrNotFound):
		return nil, err
	}
	lowers, err := o.stand(ctx, id, rec)
	if err == nil && have.BootID != o.bootID {
		err = o.make(ctx, o.path("roots", id), func(tmp string) error { return o.fillRoot(ctx, tmp, rec, lowers) })
		if err != nil {
			err = errors.Join(err, o.uncount(id))
		}
	}
	if err == nil {
		err = o.limit(id)
	}
	if err != nil {
		if _, gone := o.readRoot(id); errors.Is(gone, ErrNotFound) && !exists(o.path("views", id)) {
			o.mu.Lock()
			idle := o.unuse(id)
			o.mu.Unlock()
			err = errors.Join(err, o.closeAll(ctx, idle))
		}
		return nil, err
	}
	return []Mount{o.laying.mount(o.path("roots", id), lowers, rec.IDs)}, nil
}

// stand has container id stand on the layers of rec and makes them usable. It lists the
// lower directories. A seal that is damaged is made again.
func (o *overlay) stand(ctx context.Context, id string, rec rootRecord) ([]string, error) {
	lowers, err := o.tryStand(ctx, id, rec)
	if !isSealDamage(err) {
		return lowers, o.noted(ctx, err)
	}
	o.resealing.Lock()
	defer o.resealing.Unlock()
	if lowers, err = o.tryStand(ctx, id, rec); isSealDamage(err) { // still
		if err := o.reseal(ctx, rec.Seal, rec.Layers, err); err != nil {
			return nil, err
		}
		lowers, err = o.tryStand(ctx, id, rec)
	}
	return lowers, o.noted(ctx, err)
}

func (o *overlay) tryStand(ctx context.Context, id string, rec rootRecord) ([]string, error) {
	o.mu.Lock()
	lowers, err := o.lowers(rec)
	if err == nil {
		o.use(id, rec.uses()) // from here on, none of them can go
	}
	o.mu.Unlock()
	if err == nil {
		err = o.format.open(ctx, rec.Seal, rec.Layers)
	}
	return lowers, err
}

// fillRoot makes the parts of a snapshot in the new directory tmp.
func (o *overlay) fillRoot(ctx context.Context, tmp string, rec rootRecord, lowers []string) error {
	if err := o.laying.fillRoot(ctx, tmp, &rec, lowers); err != nil {
		return err
	}
	return writeRecord(filepath.Join(tmp, "root.json"), rec)
}

// lowers lists the lower directories of a sealed chain, topmost first. Prepare holds
// the lock around it.
func (o *overlay) lowers(rec rootRecord) ([]string, error) {
	sealed, err := o.readSeal(rec.Seal)
	if err != nil {
		return nil, err
	}
	return o.format.lowers(rec.Seal, sealed)
}

// Remove implements Roots.
func (o *overlay) Remove(ctx context.Context, id string) error {
	if err := CheckID(id); err != nil {
		return err
	}
	label := "root-" + id + "."
	o.mu.Lock()
	err := o.trash.throw(o.path("roots", id), strings.TrimSuffix(label, "."))
	if err == nil {
		err = o.trash.throw(o.path("views", id), strings.TrimSuffix(label, "."))
	}
	var idle []string
	if err == nil {
		idle = o.unuse(id)
	}
	o.mu.Unlock()
	if err == nil {
		err = o.uncount(id) // while the record, by which it can be made up for, is there
	}
	if err == nil {
		err = errors.Join(o.closeAll(ctx, idle), o.trash.empty(ctx, label))
	}
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", id, err)
	}
	return nil
}

// Usage implements Roots.
func (o *overlay) Usage(ctx context.Context, id string) (Usage, error) {
	if err := CheckID(id); err != nil {
		return Usage{}, err
	}
	u, err := o.laying.usage(ctx, id)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotFound) {
		return Usage{}, fmt.Errorf("snapshot %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return Usage{}, fmt.Errorf("snapshot %s: %w", id, err)
	}
	return u, nil
}
