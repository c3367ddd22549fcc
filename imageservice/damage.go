package imageservice

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/imageservice/registry"
	"github.com/berthd/berth/snapshot"
)

// The driver puts a layer away that the disk has damaged. Its images are not here until
// they are pulled again, which fetches that layer alone. They stay in the list, so that
// they can be removed.

// complete tells whether all layers of an image are here.
func (s *Service) complete(img Image) error {
	for _, d := range img.DiffIDs {
		if !s.layers.HasLayer(d) {
			return fmt.Errorf("layer %s is not here any more; pull the image again: %w", d, ErrNotFound)
		}
	}
	return nil
}

// addSealed brings layers here and makes them mountable. One that is here, and found damaged
// when it is made so, is fetched again.
func (s *Service) addSealed(ctx context.Context, repo *registry.Repository, layers []layer, chain []digest.Digest, p *pullProgress) error {
	var err error
	for range len(layers) + 1 { // each of them may be
		if err := s.addLayers(ctx, repo, layers, p); err != nil {
			return err
		}
		if err := s.store.intend(chain); err != nil {
			return err
		}
		begin := time.Now()
		err = s.layers.SealImage(ctx, chain)
		p.spent.seal.since(begin)
		if !errors.Is(err, snapshot.ErrDamaged) {
			break
		}
		klog.FromContext(ctx).Info("Fetching a damaged layer again", "image", p.image, "err", err)
		p.bytes.Store(0)
		p.done.Store(0)
	}
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	return nil
}
