package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/snapshot/durable"
)

// stat asks for a committed snapshot; ErrNotFound.
func (d *proxied) stat(ctx context.Context, name string) error {
	info, err := d.ask.Stat(ctx, name)
	if err == nil && info.GetKind() != snapshotsapi.Kind_COMMITTED {
		err = fmt.Errorf("snapshot %s is not committed: %w", name, ErrNotFound)
	}
	return err
}

// usage asks how much a snapshot takes; ErrNotFound.
func (d *proxied) usage(ctx context.Context, key string) (Usage, error) {
	bytes, inodes, err := d.ask.Usage(ctx, key)
	return Usage{Bytes: bytes, Inodes: inodes}, err
}

// AddLayer implements Layers. A layer that stands on nothing cannot be kept.
func (d *proxied) AddLayer(context.Context, digest.Digest, io.Reader, func() error) error {
	return fmt.Errorf("snapshot proxy %s takes layers as parts of images: %w", d.name, ErrUnsupported)
}

// note remembers a committed snapshot.
func (d *proxied) note(name string, l committed) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if have, ok := d.known[name]; ok {
		l.usage = have.usage
	}
	d.known[name] = l
}

// learn remembers the snapshots of a chain. It needs the lock, or that nobody else has d.
func (d *proxied) learn(diffIDs []digest.Digest) {
	parent := ""
	for i, name := range snapshotNames(diffIDs) {
		if _, ok := d.known[name]; !ok {
			d.known[name] = committed{diffID: diffIDs[i], parent: parent}
		}
		parent = name
	}
}

// HasLayer tells whether some image, or a pull that did not get through, has the layer.
func (d *proxied) HasLayer(diffID digest.Digest) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.known {
		if l.diffID == diffID {
			return true
		}
	}
	return false
}

// ListLayers implements Layers. What a layer takes is as the process last said.
func (d *proxied) ListLayers(ctx context.Context) ([]LayerInfo, error) {
	d.mu.Lock()
	names := make([]string, 0, len(d.known))
	for name := range d.known {
		names = append(names, name)
	}
	d.mu.Unlock()
	for _, name := range names {
		u, err := d.usage(ctx, name)
		if errors.Is(err, ErrUnavailable) {
			break
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		d.mu.Lock()
		if l, ok := d.known[name]; ok && err == nil {
			l.usage = u
			d.known[name] = l
		}
		d.mu.Unlock()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	sums := map[digest.Digest]Usage{} // a layer may stand on several others
	for _, l := range d.known {
		sum := sums[l.diffID]
		sums[l.diffID] = Usage{Bytes: sum.Bytes + l.usage.Bytes, Inodes: sum.Inodes + l.usage.Inodes}
	}
	var out []LayerInfo
	for diffID, sum := range sums {
		out = append(out, LayerInfo{DiffID: diffID, Usage: sum})
	}
	slices.SortFunc(out, func(a, b LayerInfo) int { return strings.Compare(string(a.DiffID), string(b.DiffID)) })
	return out, nil
}

// RemoveLayer removes the layer's snapshots, and those on top of them, that no sealed image
// needs. While one does, it is ErrInUse.
func (d *proxied) RemoveLayer(ctx context.Context, diffID digest.Digest) error {
	if err := checkChain([]digest.Digest{diffID}); err != nil {
		return err
	}
	gone, kept := d.unneeded(diffID)
	for _, name := range gone {
		if err := d.removeCommitted(ctx, name); err != nil {
			return fmt.Errorf("layer %s: %w", diffID, err)
		}
	}
	if kept {
		return fmt.Errorf("layer %s: a sealed image has it: %w", diffID, ErrInUse)
	}
	if len(gone) == 0 {
		return nil
	}
	return d.ask.Cleanup(ctx)
}

func (d *proxied) removeCommitted(ctx context.Context, name string) error {
	unlock, err := d.busy.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if err := d.ask.Remove(ctx, name); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.known, name)
	return nil
}

// unneeded lists the layer's snapshots, and those on top of them, that no sealed image
// needs, the topmost first. kept says that one does need the layer.
func (d *proxied) unneeded(diffID digest.Digest) (gone []string, kept bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	needed := map[string]bool{}
	for _, chain := range d.chains {
		for _, name := range snapshotNames(chain) {
			needed[name] = true
		}
	}
	depth := map[string]int{}
	for name := range d.known {
		if needed[name] {
			kept = kept || d.known[name].diffID == diffID
			continue
		}
		below, on := 0, false
		for at := name; at != "" && below <= len(d.known); at = d.known[at].parent {
			on = on || d.known[at].diffID == diffID && !needed[at]
			below++
		}
		if on {
			depth[name] = below
			gone = append(gone, name)
		}
	}
	slices.SortFunc(gone, func(a, b string) int { return depth[b] - depth[a] })
	return gone, kept
}

// Archive implements Layers. The API gives no archives.
func (d *proxied) Archive(_ context.Context, diffID digest.Digest, _ io.Writer) error {
	return d.noContents(diffID)
}

// VerifyLayer implements Layers. What the process has is for it to verify.
func (d *proxied) VerifyLayer(_ context.Context, diffID digest.Digest) error {
	return d.noContents(diffID)
}

func (d *proxied) noContents(diffID digest.Digest) error {
	if !d.HasLayer(diffID) {
		return fmt.Errorf("layer %s: %w", diffID, ErrNotFound)
	}
	return fmt.Errorf("layer %s: the snapshot proxy %s keeps its contents to itself: %w", diffID, d.name, ErrUnsupported)
}

// SealImage implements Seals: it is written down that the layers are needed.
func (d *proxied) SealImage(ctx context.Context, diffIDs []digest.Digest) error {
	if err := checkChain(diffIDs); err != nil {
		return err
	}
	name := topName(diffIDs)
	d.mu.Lock()
	_, sealed := d.chains[name]
	d.mu.Unlock()
	if sealed {
		return nil
	}
	if name != "" {
		if err := d.stat(ctx, name); err != nil {
			return fmt.Errorf("seal: %w", err)
		}
	}
	if err := storeRecord(d.chainFile(diffIDs), chainRecord{Driver: d.name, Layers: diffIDs}); err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.chains[name] = slices.Clone(diffIDs)
	d.learn(diffIDs)
	return nil
}

// UnsealImage implements Seals.
func (d *proxied) UnsealImage(_ context.Context, diffIDs []digest.Digest) error {
	if err := checkChain(diffIDs); err != nil {
		return err
	}
	d.mu.Lock()
	for id, r := range d.roots {
		if r.uses(diffIDs) {
			d.mu.Unlock()
			return fmt.Errorf("seal: %s: %w", id, ErrInUse)
		}
	}
	delete(d.chains, topName(diffIDs))
	d.mu.Unlock()
	if err := durable.Remove(d.chainFile(diffIDs)); err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	return nil
}

func (d *proxied) chainFile(diffIDs []digest.Digest) string {
	return filepath.Join(d.dir, "chains", digest.FromString(topName(diffIDs)).Encoded()+".json")
}
