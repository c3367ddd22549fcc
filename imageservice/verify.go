package imageservice

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/imageservice/registry"
	"github.com/berthd/berth/snapshot"
)

// A Verification is what reading all of an image has shown.
type Verification struct {
	Image   Image
	Damaged []error // what is not as it was; the next pull of the image mends it
	Unknown []error // what there is nothing to compare with
}

// Verify reads all of each image and compares it with its digests: documents, layers and
// seal. It calls tell for one after the other and ends with tell's error, the context's or
// the disk's. A layer that several images share is read once. Damaged layers are put away, so
// that no new container gets them.
func (s *Service) Verify(ctx context.Context, images []Image, tell func(Verification) error) error {
	known := map[digest.Digest]error{}
	for _, img := range images {
		v, err := s.verify(ctx, img, known)
		if err != nil {
			return fmt.Errorf("verify %s: %w", img.ID, err)
		}
		if err := tell(v); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) verify(ctx context.Context, img Image, known map[digest.Digest]error) (Verification, error) {
	v := Verification{Image: img}
	keys := guardKeys(img.DiffIDs)
	if err := s.guard.hold(ctx, keys); err != nil {
		return v, err
	}
	defer s.guard.release(keys)
	if err := v.add(s.store.verify(img.ID)); err != nil {
		return v, err
	}
	for _, d := range img.DiffIDs {
		if _, ok := known[d]; !ok {
			known[d] = s.layers.VerifyLayer(ctx, d)
		}
		if err := v.add(known[d]); err != nil {
			return v, err
		}
	}
	if len(v.Damaged) > 0 {
		return v, nil
	}
	if err := s.layers.SealImage(ctx, img.DiffIDs); err != nil { // a damaged one is made again
		if err := v.add(fmt.Errorf("seal: %w", err)); err != nil {
			return v, err
		}
	}
	return v, nil
}

// add sorts err in; what says nothing about the image it returns.
func (v *Verification) add(err error) error {
	switch {
	case err == nil:
	case errors.Is(err, snapshot.ErrDamaged), errors.Is(err, snapshot.ErrNotFound):
		v.Damaged = append(v.Damaged, err)
	case errors.Is(err, snapshot.ErrUnsupported):
		v.Unknown = append(v.Unknown, err)
	default:
		return err
	}
	return nil
}

// verify compares the documents of an image with their digests, as documents does. One that has
// gone meanwhile has none.
func (st *store) verify(id digest.Digest) error {
	rec, ok := st.record(id)
	if !ok {
		return nil
	}
	_, err := st.documents(rec)
	return err
}

// record is what is known of an image.
func (st *store) record(id digest.Digest) (record, bool) {
	rec, ok := st.view.Load().records[id]
	return rec, ok
}

// documents reads an image's manifest and its configuration, and compares them with their digests. snapshot.ErrDamaged; anything else says nothing about them.
func (st *store) documents(rec record) (d description, err error) {
	d.rec = rec
	if d.manifest, err = readVerified(st.manifestFile(rec.manifest), rec.manifest, registry.MaxManifest); err != nil {
		return d, fmt.Errorf("manifest: %w", asDamage(err))
	}
	if !rec.image.IsArtifact() {
		if d.config, err = readVerified(st.configFile(rec.image.ID), rec.image.ID, maxConfig); err != nil {
			return d, fmt.Errorf("configuration: %w", asDamage(err))
		}
	}
	if d.doc, err = parseDocument(d.manifest, "", ""); err != nil {
		return d, asDamage(err)
	}
	return d, nil
}

// asDamage is err, as snapshot.ErrDamaged where what is read is to blame, or the disk under it.
func asDamage(err error) error {
	for _, damage := range []error{ErrCorrupt, ErrTooLarge, fs.ErrNotExist} {
		if errors.Is(err, damage) {
			return fmt.Errorf("%w: %w", err, snapshot.ErrDamaged)
		}
	}
	if isDiskDamage(err) {
		return fmt.Errorf("%w: %w", err, snapshot.ErrDamaged)
	}
	return err
}
