package snapshot

import (
	"context"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
)

// Archive implements Layers.
func (o *overlay) Archive(ctx context.Context, diffID digest.Digest, w io.Writer) error {
	return o.inspect(ctx, diffID, func(name string, rec layerRecord) error {
		return o.format.archive(ctx, name, rec, w)
	})
}

// VerifyLayer implements Layers.
func (o *overlay) VerifyLayer(ctx context.Context, diffID digest.Digest) error {
	return o.inspect(ctx, diffID, func(name string, rec layerRecord) error {
		return o.format.verify(ctx, name, rec)
	})
}

// inspect has a look taken at a layer, and puts it away if it is damaged.
func (o *overlay) inspect(ctx context.Context, diffID digest.Digest, look func(name string, rec layerRecord) error) error {
	name, err := layerName(diffID)
	if err != nil {
		return err
	}
	rec, err := o.readLayer(name)
	if err == nil {
		err = damageOf(name, look(name, rec))
	}
	if err = o.noted(ctx, err); err != nil {
		return fmt.Errorf("layer %s: %w", diffID, err)
	}
	return nil
}
