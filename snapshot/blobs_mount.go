package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/snapshot/loop"
)

// mountsDir is where seals are mounted that containers stand on.
const mountsDir = "mounts"

// start learns how this kernel mounts EROFS, and unmounts what a crash has left mounted.
func (b *blobs) start(ctx context.Context) error {
	if err := makeDir(b.path(mountsDir), 0o700); err != nil {
		return err
	}
	if err := errors.Join(b.probe(), b.tryVerity(ctx)); err != nil {
		return err
	}
	left, err := os.ReadDir(b.path(mountsDir))
	if err != nil {
		return err
	}
	for _, e := range left {
		if err := b.close(ctx, e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// probe mounts an image once: from its file (kernel 6.12), or by a loop device.
func (b *blobs) probe() (err error) {
	dir, err := os.MkdirTemp(b.path("tmp"), probePrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	image, root := filepath.Join(dir, imageFile), filepath.Join(dir, "root")
	if _, err := writeTree(image, emptyDir(), nil); err != nil {
		return err
	}
	for _, b.loops = range []bool{false, true} {
		if err = b.mount(image, nil, root); err == nil {
			return Unmount(root)
		}
		if !isNoBlockDevice(err) {
			break
		}
	}
	return fmt.Errorf("this kernel mounts no EROFS (CONFIG_EROFS_FS; the module erofs): %w: %w", ErrUnsupported, err)
}

// open mounts a seal unless it is mounted. What is mounted was looked at then, and what was
// found out since is not mounted any more (lost).
func (b *blobs) open(ctx context.Context, seal string, chain []digest.Digest) error {
	unlock, err := b.mounting.lock(ctx, seal)
	if err != nil {
		return err
	}
	defer unlock()
	if is, err := mountinfo.Mounted(b.path(mountsDir, seal)); is || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	rec, err := b.sound(ctx, seal, chain)
	if err != nil {
		return err
	}
	var devices []string
	for _, name := range rec.Devices {
		devices = append(devices, b.path("layers", name, dataFile))
	}
	return b.mount(b.path("seals", seal, imageFile), devices, b.path(mountsDir, seal))
}

// sound reads a seal's record and sees to it that the seal is one of the chain, and as it
// was written.
func (b *blobs) sound(ctx context.Context, seal string, chain []digest.Digest) (sealRecord, error) {
	rec, err := b.readSeal(seal)
	if err != nil {
		return rec, err
	}
	if err := b.fits(rec, chain); err != nil {
		return rec, err
	}
	return rec, checkSum(ctx, b.path("seals", seal, imageFile), rec.Image)
}

// fits tells whether a seal is one of the chain, and of the layers as they are. It reads
// their records and not what is in them. ErrNotFound when a layer is missing.
func (b *blobs) fits(rec sealRecord, chain []digest.Digest) error {
	if err := b.haveAll(chain); err != nil {
		return err
	}
	if !slices.Equal(rec.Chain, chain) || rec.Parts != nil && len(rec.Parts) != len(chain) {
		return fmt.Errorf("it is of other layers: %w", ErrDamaged)
	}
	for i, d := range chain {
		name, err := layerName(d)
		if err != nil {
			return err
		}
		layer, err := b.readLayer(name)
		if err != nil {
			return err
		}
		blocks, err := b.blocks(name, layer)
		if err != nil {
			return damageOf(name, err)
		}
		if rec.Parts != nil && rec.Parts[i] != (sealedPart{layer.Data, layer.Tree, blocks}) {
			return fmt.Errorf("layer %s is another since: %w", d, ErrDamaged)
		}
	}
	return nil
}

// lost implements format. A mount that is detached serves those who have it. Whoever was
// told where it is and has not mounted it yet finds nothing there.
func (b *blobs) lost(ctx context.Context, name string) error {
	mounted, err := os.ReadDir(b.path(mountsDir))
	if err != nil {
		return err
	}
	errs := []error{}
	for _, e := range mounted {
		if e.Name() == name || b.standsOn(e.Name(), name) {
			errs = append(errs, b.detach(ctx, e.Name()))
		}
	}
	return errors.Join(errs...)
}

// standsOn tells whether a seal has the layer name, or may have: its record says nothing.
func (b *blobs) standsOn(seal, name string) bool {
	rec, err := b.readSeal(seal)
	return err != nil || slices.ContainsFunc(rec.Chain, func(d digest.Digest) bool {
		have, err := layerName(d)
		return err == nil && have == name
	})
}

// detach unmounts a seal, whoever stands on it.
func (b *blobs) detach(ctx context.Context, seal string) error {
	unlock, err := b.mounting.lock(ctx, seal)
	if err != nil {
		return err
	}
	defer unlock()
	return b.unmount(seal)
}

func (b *blobs) unmount(seal string) error {
	at := b.path(mountsDir, seal)
	if err := Unmount(at); err != nil {
		return err
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// mount mounts an image over its devices at target.
func (b *blobs) mount(image string, devices []string, target string) error {
	files := append([]string{image}, devices...)
	if b.loops {
		for i, path := range files {
			device, err := loop.Attach(path)
			if err != nil {
				return err
			}
			defer device.Close() // the mount keeps it
			files[i] = device.Name()
		}
	}
	m := Mount{Type: "erofs", Source: files[0], Options: []string{"ro", "nodev"}}
	for _, path := range files[1:] {
		m.Options = append(m.Options, "device="+path)
	}
	if b.label != "" { // EROFS has no labels of its own, and overlayfs asks for the lower file's too
		m.Options = append(m.Options, "context="+b.label)
	}
	return MountAll([]Mount{m}, target)
}

// close unmounts a seal unless a container stands on it.
func (b *blobs) close(ctx context.Context, seal string) error {
	return b.unlessUsed(ctx, seal, func() error { return b.unmount(seal) })
}

// unlessUsed does what undoes the mounting of a seal, unless a container stands on it. It
// does not wait for one that is mounting it, and for others it does whatever the context
// says: nobody would do it later.
func (b *blobs) unlessUsed(ctx context.Context, seal string, undo func() error) error {
	if b.isUsed(seal) {
		return nil
	}
	unlock, err := b.mounting.lock(context.WithoutCancel(ctx), seal)
	if err != nil {
		return err
	}
	defer unlock()
	if b.isUsed(seal) {
		return nil
	}
	return undo()
}

func (b *blobs) isUsed(seal string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.users[seal]) > 0
}
