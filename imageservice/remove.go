package imageservice

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/snapshot"
)

// Remove takes an image away: all names of its ID, as CRI's RemoveImage wants, then
// the layers that nobody else needs. Layers that containers use stay until
// Collect. An absent image is fine.
func (s *Service) Remove(ctx context.Context, ref string) error {
	img, ok := s.store.view.Load().find(ref)
	if !ok {
		return nil
	}
	if err := s.store.drop(img.ID); err != nil {
		return fmt.Errorf("image %s: remove: %w", img.ID, err)
	}
	return s.Collect(ctx)
}

// Collect removes the layers that no image, no pull and no container needs, and
// the seals of images that are gone. Call it after containers were removed. It may run
// beside anything: a pull holds its layers, and waits for one that is just being removed.
func (s *Service) Collect(ctx context.Context) error {
	var errs []error
	for _, chain := range s.store.seals() {
		keys := s.guard.take([]string{sealKey(chain)}, s.needed)
		if len(keys) == 0 {
			continue
		}
		err := s.layers.UnsealImage(ctx, chain)
		if err == nil {
			s.store.unsealed(chain)
		} else if !errors.Is(err, snapshot.ErrInUse) {
			errs = append(errs, fmt.Errorf("unseal: %w", err))
		}
		s.guard.left(keys)
	}
	infos, err := s.layers.ListLayers(ctx)
	if err != nil {
		return fmt.Errorf("collect: %w", errors.Join(append(errs, err)...))
	}
	removed := false
	for _, info := range infos {
		keys := s.guard.take([]string{info.DiffID.String()}, s.needed)
		if len(keys) == 0 {
			continue
		}
		err := s.layers.RemoveLayer(ctx, digest.Digest(keys[0]))
		s.guard.left(keys)
		if err == nil {
			removed = true
		} else if !errors.Is(err, snapshot.ErrInUse) {
			errs = append(errs, fmt.Errorf("layer %s: %w", info.DiffID, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	if removed {
		s.remeasure(ctx)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("collect: %w", err)
	}
	return nil
}

// needed reports whether an image needs the thing key names.
func (s *Service) needed(key string) bool { return s.store.view.Load().needed[key] }
