package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/snapshot/durable"
)

// A proxiedRoot is what a container has: a file in roots/, written before the process is asked
// for a snapshot, without waiting for the disk.
type proxiedRoot struct {
	BootID string            `json:"bootID"`
	Made   bool              `json:"made,omitempty"`   // it has a writable layer
	Layers []digest.Digest   `json:"layers,omitempty"` // under that
	Views  [][]digest.Digest `json:"views,omitempty"`  // what it only reads
}

// uses tells whether the container stands on the chain.
func (r proxiedRoot) uses(diffIDs []digest.Digest) bool {
	return r.Made && slices.Equal(r.Layers, diffIDs) ||
		slices.ContainsFunc(r.Views, func(v []digest.Digest) bool { return slices.Equal(v, diffIDs) })
}

// rootKey names a container's writable snapshot.
func rootKey(id string) string { return rootPrefix + id }

// viewKey names a snapshot that a container only reads.
func viewKey(id string, diffIDs []digest.Digest) string {
	return rootPrefix + id + "/" + digest.FromString(topName(diffIDs)).Encoded()
}

// needsRoot tells whether the container of a snapshot is on record.
func (d *proxied) needsRoot(key string) bool {
	id, _, _ := strings.Cut(strings.TrimPrefix(key, rootPrefix), "/")
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.roots[id]
	return ok
}

// Prepare implements Roots.
func (d *proxied) Prepare(ctx context.Context, id string, diffIDs []digest.Digest, opts ...RootOption) ([]Mount, error) {
	mounts, err := d.prepare(ctx, id, diffIDs, opts)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", id, err)
	}
	return mounts, nil
}

func (d *proxied) prepare(ctx context.Context, id string, diffIDs []digest.Digest, opts []RootOption) ([]Mount, error) {
	if err := d.check(id, diffIDs, opts); err != nil {
		return nil, err
	}
	d.mu.Lock()
	have := d.roots[id]
	d.mu.Unlock()
	if have.Made && !slices.Equal(have.Layers, diffIDs) {
		return nil, fmt.Errorf("made for other layers: %w", ErrInUse)
	}
	if have.Made && have.BootID != d.bootID { // its last writes may not have reached the disk
		if err := d.ask.Remove(ctx, rootKey(id)); err != nil {
			return nil, err
		}
	}
	want := have
	want.BootID, want.Made, want.Layers = d.bootID, true, slices.Clone(diffIDs)
	return d.take(ctx, id, have, want, diffIDs, func() ([]*types.Mount, error) {
		return d.ask.Prepare(ctx, rootKey(id), topName(diffIDs), nil)
	}, rootKey(id))
}

// View implements Roots.
func (d *proxied) View(ctx context.Context, id string, diffIDs []digest.Digest, opts ...RootOption) ([]Mount, error) {
	mounts, err := d.view(ctx, id, diffIDs, opts)
	if err != nil {
		return nil, fmt.Errorf("view of snapshot %s: %w", id, err)
	}
	return mounts, nil
}

func (d *proxied) view(ctx context.Context, id string, diffIDs []digest.Digest, opts []RootOption) ([]Mount, error) {
	if err := d.check(id, diffIDs, opts); err != nil {
		return nil, err
	}
	d.mu.Lock()
	have := d.roots[id]
	d.mu.Unlock()
	want := have
	if !slices.ContainsFunc(have.Views, func(v []digest.Digest) bool { return slices.Equal(v, diffIDs) }) {
		want.Views = append(slices.Clip(have.Views), slices.Clone(diffIDs))
	}
	key := viewKey(id, diffIDs)
	mounts, err := d.take(ctx, id, have, want, diffIDs, func() ([]*types.Mount, error) {
		return d.ask.View(ctx, key, topName(diffIDs))
	}, key)
	for i, m := range mounts {
		if !slices.Contains(m.Options, "nodev") {
			mounts[i].Options = append(slices.Clone(m.Options), "nodev")
		}
	}
	return mounts, err
}

func (d *proxied) check(id string, diffIDs []digest.Digest, opts []RootOption) error {
	if err := CheckID(id); err != nil {
		return err
	}
	if IDMapOf(opts...) != (IDMap{}) {
		return d.noIDMap()
	}
	return checkChain(diffIDs)
}

// take writes down that the container stands on a chain, and has the process make the
// snapshot key by make, or tell what it is when it is there.
func (d *proxied) take(ctx context.Context, id string, have, want proxiedRoot, diffIDs []digest.Digest,
	make func() ([]*types.Mount, error), key string,
) ([]Mount, error) {
	if err := d.record(ctx, id, want, topName(diffIDs)); err != nil {
		return nil, err
	}
	named, err := make()
	if errors.Is(err, errExists) {
		named, err = d.ask.Mounts(ctx, key)
	}
	if errors.Is(err, ErrNotFound) { // nothing was made
		return nil, errors.Join(fmt.Errorf("the layers are gone: remove the image and pull it again: %w", err), d.record(context.WithoutCancel(ctx), id, have), d.lost(diffIDs))
	}
	if err != nil {
		return nil, err // it may have been made: until Remove
	}
	return mountsOf(named)
}

// lost forgets a chain that the process does not have any more, so that a pull brings it.
func (d *proxied) lost(diffIDs []digest.Digest) error {
	d.mu.Lock()
	for _, r := range d.roots {
		if r.uses(diffIDs) {
			d.mu.Unlock()
			return nil
		}
	}
	delete(d.chains, topName(diffIDs))
	delete(d.known, topName(diffIDs))
	d.mu.Unlock()
	return durable.Remove(d.chainFile(diffIDs))
}

// record writes down what a container has; nothing takes its record away. The chains, by
// their top snapshots, must be sealed.
func (d *proxied) record(ctx context.Context, id string, r proxiedRoot, chains ...string) error {
	unlock, err := d.busy.lock(ctx, rootKey(id))
	if err != nil {
		return err
	}
	defer unlock()
	path := filepath.Join(d.dir, "roots", id+".json")
	if !r.Made && len(r.Views) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		d.remember(id, nil)
		return nil
	}
	have, err := d.rely(id, r, chains)
	if err != nil {
		return err
	}
	if err := writeRecord(path, r); err != nil {
		d.remember(id, have)
		return err
	}
	return nil
}

// rely has the container rely on what r says, if the chains are sealed: from here on none of
// them can be unsealed. It returns what it relied on before; nil is nothing.
func (d *proxied) rely(id string, r proxiedRoot, chains []string) (have *proxiedRoot, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range chains {
		if _, sealed := d.chains[c]; !sealed {
			return nil, fmt.Errorf("image is not sealed: %w", ErrNotFound)
		}
	}
	if before, ok := d.roots[id]; ok {
		have = &before
	}
	d.roots[id] = r
	return have, nil
}

// remember has r be what the container relies on; nil is nothing.
func (d *proxied) remember(id string, r *proxiedRoot) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r == nil {
		delete(d.roots, id)
		return
	}
	d.roots[id] = *r
}

// noIDMap is what is said of user namespaces.
func (d *proxied) noIDMap() error {
	return fmt.Errorf("user namespaces on the snapshot proxy %s; another snapshot.driver has them: %w", d.name, ErrUnsupported)
}

// CheckIDMap implements Roots. Whether a process's layers can be mounted with a
// map of IDs, and who is to own the writable one, the API does not tell.
func (d *proxied) CheckIDMap(context.Context, IDMap) error { return d.noIDMap() }

// Remove implements Roots.
func (d *proxied) Remove(ctx context.Context, id string) error {
	if err := CheckID(id); err != nil {
		return err
	}
	d.mu.Lock()
	have, ok := d.roots[id]
	d.mu.Unlock()
	if !ok {
		return nil
	}
	gone := []string{rootKey(id)}
	for _, v := range have.Views {
		gone = append(gone, viewKey(id, v))
	}
	for _, key := range gone {
		if err := d.ask.Remove(ctx, key); err != nil {
			return fmt.Errorf("snapshot %s: %w", id, err)
		}
	}
	if err := errors.Join(d.record(ctx, id, proxiedRoot{}), d.ask.Cleanup(ctx)); err != nil {
		return fmt.Errorf("snapshot %s: %w", id, err)
	}
	return nil
}

// ListRoots implements Roots.
func (d *proxied) ListRoots(context.Context) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for id := range d.roots {
		out = append(out, id)
	}
	slices.Sort(out)
	return out, nil
}

// Usage implements Roots: as the process measures it.
func (d *proxied) Usage(ctx context.Context, id string) (Usage, error) {
	if err := CheckID(id); err != nil {
		return Usage{}, err
	}
	u, err := d.usage(ctx, rootKey(id))
	if err != nil {
		return u, fmt.Errorf("snapshot %s: %w", id, err)
	}
	return u, nil
}
