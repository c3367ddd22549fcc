package snapshot

// What is damaged on disk heals without anybody's doing. A seal is made again of its
// layers. A layer is put away: it is not there any more, so its images are not, and
// whoever pulls one fetches the layer again. Containers that have it mounted keep it: its
// files stay in damaged/ until the last of them is gone.
//
// When an image is mounted the layers' records, the checksums of their trees and the
// sizes of their data are looked at. Their data is too much to read then; VerifyLayer does.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/snapshot/durable"
)

// A layerDamage says that a layer is not on disk as it was written. It is ErrDamaged.
type layerDamage struct {
	name string
	err  error
}

func (d layerDamage) Error() string {
	id, _ := layerID(d.name)
	return fmt.Sprintf("layer %s has been put away, pull the image again: %v", id, d.err)
}

func (d layerDamage) Unwrap() error { return d.err }

// readLayer reads a layer's record: ErrNotFound or a layerDamage.
func (o *overlay) readLayer(name string) (rec layerRecord, err error) {
	err = readRecord(o.path("layers", name, "layer.json"), &rec)
	if errors.Is(err, ErrNotFound) && exists(o.path("layers", name)) {
		err = fmt.Errorf("no layer.json: %w", ErrDamaged)
	}
	return rec, damageOf(name, err)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// damageOf says that err, if it is one of damage, is the layer's.
func damageOf(name string, err error) error {
	if errors.Is(err, ErrDamaged) {
		return layerDamage{name, err}
	}
	return err
}

// isSealDamage tells whether err is one of damage, and not a layer's.
func isSealDamage(err error) bool {
	_, layer := errors.AsType[layerDamage](err)
	return errors.Is(err, ErrDamaged) && !layer
}

// noted puts the layer away that err says is damaged, and returns err.
func (o *overlay) noted(ctx context.Context, err error) error {
	damage, ok := errors.AsType[layerDamage](err)
	if !ok {
		return err
	}
	klog.FromContext(ctx).Error(err, "A layer is damaged on disk", "layer", damage.name)
	o.mu.Lock()
	thrown := o.damaged.throw(o.path("layers", damage.name), damage.name)
	used := len(o.users[damage.name]) > 0
	o.mu.Unlock()
	if thrown == nil {
		thrown = errors.Join(o.format.lost(context.WithoutCancel(ctx), damage.name), durable.SyncDir(o.path("layers")))
	}
	if thrown == nil && !used {
		thrown = o.damaged.empty(context.WithoutCancel(ctx), damage.name+".")
	}
	return errors.Join(err, thrown)
}

// reseal makes a damaged seal again of its layers.
func (o *overlay) reseal(ctx context.Context, seal string, chain []digest.Digest, cause error) error {
	klog.FromContext(ctx).Error(cause, "An image is damaged on disk; it is made again of its layers", "seal", seal)
	if err := errors.Join(o.format.lost(context.WithoutCancel(ctx), seal), o.trash.throw(o.path("seals", seal), seal)); err != nil {
		return err
	}
	return errors.Join(o.SealImage(ctx, chain), o.trash.empty(context.WithoutCancel(ctx), seal))
}

// readSeal reads a seal's record, which is to be one of that chain.
func (o *overlay) readSeal(seal string) (rec sealRecord, err error) {
	err = readRecord(o.path("seals", seal, "seal.json"), &rec)
	if errors.Is(err, ErrNotFound) && exists(o.path("seals", seal)) {
		err = fmt.Errorf("no seal.json: %w", ErrDamaged)
	}
	if err != nil {
		return rec, fmt.Errorf("seal %s: %w", seal, err)
	}
	return rec, nil
}

// sweepDamaged throws away the damaged layers that no container uses.
func (o *overlay) sweepDamaged() error {
	found, err := os.ReadDir(o.damaged.dir)
	if err != nil {
		return err
	}
	for _, e := range found {
		name, _, _ := strings.Cut(e.Name(), ".")
		if len(o.users[name]) > 0 {
			continue
		}
		if err := o.trash.throw(o.path("damaged", e.Name()), "damaged"); err != nil {
			return err
		}
	}
	return nil
}

// emptyDamaged deletes damaged layers that no container uses any more.
func (o *overlay) emptyDamaged(ctx context.Context, idle []string) error {
	found, err := os.ReadDir(o.damaged.dir)
	if err != nil || len(found) == 0 {
		return err
	}
	var errs []error
	for _, name := range idle {
		if _, layer := layerID(name); layer {
			errs = append(errs, o.damaged.empty(ctx, name+"."))
		}
	}
	return errors.Join(errs...)
}

// checkSize compares a file's size, in bytes, with what it was.
func checkSize(path string, want int64) error {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), isBadDisk(err):
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	case err != nil:
		return err
	case fi.Size() != want:
		return fmt.Errorf("%s: %d bytes, not %d: %w", path, fi.Size(), want, ErrDamaged)
	}
	return nil
}
