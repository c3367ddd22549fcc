package snapshot

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
	"k8s.io/klog/v2"
)

// View implements Roots. What a view stands on is on record in views/<id>/<seal>, like
// root.json without waiting for the disk.
func (o *overlay) View(ctx context.Context, id string, diffIDs []digest.Digest, opts ...RootOption) ([]Mount, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	mounts, err := o.view(ctx, id, newRootRecord(o.bootID, diffIDs, opts))
	if err != nil {
		return nil, fmt.Errorf("view of snapshot %s: %w", id, err)
	}
	return mounts, nil
}

func (o *overlay) view(ctx context.Context, id string, rec rootRecord) ([]Mount, error) {
	var err error
	if rec.Seal, err = sealName(rec.Layers); err != nil {
		return nil, err
	}
	lowers, err := o.stand(ctx, id, rec) // until Remove, also when the rest fails
	if err != nil {
		return nil, err
	}
	if err := makeDir(o.path("views", id), 0o700); err != nil {
		return nil, err
	}
	if err := writeRecord(o.path("views", id, rec.Seal), rec); err != nil {
		return nil, err
	}
	m, err := o.laying.view(ctx, rec, lowers)
	if err != nil {
		return nil, err
	}
	return []Mount{m}, nil
}

// learnViews notes what the views stand on, at the start. A record that was torn by a
// power cut goes: its container did not survive it either.
func (o *overlay) learnViews(ctx context.Context) error {
	owners, err := os.ReadDir(o.path("views"))
	if err != nil {
		return err
	}
	for _, owner := range owners {
		seals, err := os.ReadDir(o.path("views", owner.Name()))
		if err != nil {
			return err
		}
		for _, seal := range seals {
			var rec rootRecord
			err := readRecord(o.path("views", owner.Name(), seal.Name()), &rec)
			if isUnread(err) {
				if err := o.useAll(ctx, owner.Name(), err); err != nil {
					return err
				}
				continue
			}
			if err != nil {
				klog.FromContext(ctx).Info("Dropping a view without a readable record", "snapshot", owner.Name(), "err", err)
				if err := o.trash.throw(o.path("views", owner.Name(), seal.Name()), "view"); err != nil {
					return err
				}
				continue
			}
			o.use(owner.Name(), rec.uses())
		}
	}
	return nil
}

// ListRoots implements Roots.
func (o *overlay) ListRoots(context.Context) ([]string, error) {
	var ids []string
	for _, kind := range []string{"roots", "views"} {
		found, err := os.ReadDir(o.path(kind))
		if err != nil {
			return nil, err
		}
		for _, e := range found {
			ids = append(ids, e.Name())
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}
