package snapshot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path/filepath"
)

// AddChain implements Chains.
func (d *proxied) AddChain(ctx context.Context, c Chain, fetch func(ctx context.Context, i int, add AddFunc) error) error {
	if err := checkChain(c.DiffIDs()); err != nil {
		return err
	}
	parent := ""
	for i, name := range snapshotNames(c.DiffIDs()) {
		a := adding{proxied: d, name: name, parent: parent, labels: layerLabels(c, i, name)}
		if err := a.do(ctx, func(add AddFunc) error { return fetch(ctx, i, add) }); err != nil {
			return fmt.Errorf("layer %s: %w", c.Layers[i].DiffID, err)
		}
		d.note(name, committed{diffID: c.Layers[i].DiffID, parent: parent})
		parent = name
	}
	return nil
}

// An adding is the making of one committed snapshot.
type adding struct {
	*proxied
	name, parent string
	labels       map[string]string

	key    string // of the snapshot that is written to; "" before there is one
	mounts []Mount
}

func (a *adding) do(ctx context.Context, fetch func(AddFunc) error) (err error) {
	unlock, err := a.busy.lock(ctx, a.name)
	if err != nil {
		return err
	}
	defer unlock()
	if err := a.here(ctx); !errors.Is(err, ErrNotFound) {
		return err
	}
	defer func() { err = errors.Join(err, a.discard(context.WithoutCancel(ctx))) }()
	err = a.begin(ctx)
	if errors.Is(err, errExists) { // somewhere else
		if err := a.here(ctx); err != nil {
			return fmt.Errorf("said to exist: %w", err)
		}
		a.key = ""
		return nil
	}
	if err != nil {
		return err
	}
	if err := fetch(a.add); err != nil {
		return err
	}
	return a.commit(ctx)
}

// here tells whether the layer is there; ErrNotFound. Its name says what it unpacks to, and
// stargz compares what it mounts with the image's table of contents alone: an image that gives
// that layer another table is not run on this one's.
func (a *adding) here(ctx context.Context) error {
	if err := a.stat(ctx, a.name); err != nil {
		return err
	}
	info, err := a.ask.Stat(ctx, a.name)
	if err != nil {
		return err
	}
	have, want := info.GetLabels()[labelTOC], a.labels[labelTOC]
	if have != "" && want != "" && have != want {
		return fmt.Errorf("another image has it with the table of contents %.100q, not %.100q, so one of them is false; remove that image: %w", have, want, ErrInUse)
	}
	return nil
}

// begin makes a snapshot to write to; errExists.
func (a *adding) begin(ctx context.Context) error {
	a.key = unpackPrefix + a.proxied.run + "-" + rand.Text()
	named, err := a.ask.Prepare(ctx, a.key, a.parent, a.labels)
	if err != nil {
		return err
	}
	a.mounts, err = mountsOf(named)
	return err
}

// add is the layer's AddFunc. What a call before it has left is thrown away.
func (a *adding) add(ctx context.Context, tar io.Reader, verify func() error) error {
	if a.mounts == nil {
		if err := a.discard(ctx); err != nil {
			return err
		}
		delete(a.labels, labelRef)
		if err := a.begin(ctx); err != nil {
			return err
		}
	}
	mounts := a.mounts
	a.mounts = nil
	return Apply(ctx, mounts, filepath.Join(a.dir, "scratch"), tar, verify, WithLimits(a.limits))
}

// commit has what is unpacked be a layer.
func (a *adding) commit(ctx context.Context) error {
	delete(a.labels, labelTOC) // the layer was compared with its own digest
	err := a.ask.Commit(ctx, a.name, a.key, a.parent, a.labels)
	if errors.Is(err, errExists) {
		return nil // the call was repeated, or another was faster
	}
	if errors.Is(err, ErrNotFound) { // or it was repeated, and the process looks for the key first
		if a.stat(ctx, a.name) == nil {
			err = nil
		}
	}
	if err == nil {
		a.key = ""
	}
	return err
}

// discard removes the snapshot that was written to, if there is one.
func (a *adding) discard(ctx context.Context) error {
	if a.key == "" {
		return nil
	}
	key := a.key
	a.key, a.mounts = "", nil
	return a.ask.Remove(ctx, key)
}
