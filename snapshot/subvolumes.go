package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/snapshot/btrfs"
)

// subvolumes is the driver of btrfs. Layers are kept as native keeps them. A seal is a
// subvolume with the whole tree of its layers, whose files share their bytes with the
// layers', and a root file system a snapshot of it: it takes no time that grows with the
// image, but waits for the file system's transaction. On disk, beside what blobs has:
//
//	seals/…/fs           the whole tree, a subvolume
//	roots/<id>/fs        a snapshot of it
//	trees/<hex>.<rand>   of a seal that was damaged, while a container reads it
//
// Files are on disk by fsync, one by one: the first makes the kernel commit the new
// subvolume. Nothing here waits for what others write.
type subvolumes struct{ native }

// try implements laying: it makes, snapshots and removes a subvolume.
func (s subvolumes) try() (err error) {
	if is, err := btrfs.Is(s.dir); err != nil || !is {
		return errors.Join(err, fmt.Errorf("no file system of btrfs; choose another snapshot.driver: %w", ErrUnsupported))
	}
	dir, err := os.MkdirTemp(s.path("tmp"), probePrefix)
	if err != nil {
		return err
	}
	parent, err := openAt(dir)
	if err != nil {
		return err
	}
	defer func() {
		parent.close()
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	first, second := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err = btrfs.Create(first); err == nil {
		err = btrfs.Snapshot(first, second)
	}
	for _, name := range []string{"a", "b"} {
		if err == nil {
			err = btrfs.Destroy(int(parent), name)
		}
	}
	if err != nil {
		return fmt.Errorf("btrfs: %w: %w", ErrUnsupported, err)
	}
	return nil
}

func (s subvolumes) seal(ctx context.Context, tmp string, diffIDs []digest.Digest) (sealRecord, error) {
	rec, err := s.blobs.seal(ctx, tmp, diffIDs)
	if err != nil {
		return rec, err
	}
	files := filepath.Join(tmp, "fs")
	if err := btrfs.Create(files); err != nil {
		return rec, err
	}
	return rec, s.buildFrom(ctx, filepath.Join(tmp, imageFile), rec, files)
}

func (s subvolumes) lowers(seal string, rec sealRecord) ([]string, error) {
	if err := s.standing(seal, rec); err != nil {
		return nil, err
	}
	return []string{s.path("seals", seal, "fs")}, nil
}

func (s subvolumes) open(ctx context.Context, seal string, chain []digest.Digest) error {
	if err := s.native.open(ctx, seal, chain); err != nil {
		return err
	}
	if !exists(s.path("seals", seal, "fs")) {
		return fmt.Errorf("seal %s: no tree: %w", seal, ErrDamaged)
	}
	return nil
}

// lost implements format: who reads a seal's tree keeps it.
func (s subvolumes) lost(_ context.Context, name string) error {
	if !exists(s.path("seals", name, "fs")) {
		return nil // a layer: its seals are found out when they are opened
	}
	return os.Rename(s.path("seals", name, "fs"), s.lostTree(name))
}

// fillRoot implements laying.
func (s subvolumes) fillRoot(_ context.Context, tmp string, rec *rootRecord, lowers []string) (err error) {
	files := filepath.Join(tmp, "fs")
	if err := btrfs.Snapshot(lowers[0], files); err != nil {
		return err
	}
	rec.Since, err = settled(files)
	return err
}

func (s subvolumes) view(_ context.Context, rec rootRecord, lowers []string) (Mount, error) {
	return viewOf(rec, lowers[0]), nil
}
