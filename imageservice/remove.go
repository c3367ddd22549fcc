package imageservice

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/snapshot"
)

// Remove takes an image away: all names of its ID, as CRI's RemoveImage wants, then
// the layers that nobody else needs. Layers that containers use stay until
// Collect. An absent image is fine; ErrAmbiguous.
func (s *Service) Remove(ctx context.Context, ref string) error {
	img, err := s.store.view.Load().find(ref) // also when it has lost a layer
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("image %.300q: %w", ref, err)
	}
	s.candidates.add(img.DiffIDs...)
	if err := s.store.drop(img.ID); err != nil {
		return fmt.Errorf("image %s: remove: %w", img.ID, err)
	}
	return s.Collect(ctx)
}

// Collect removes the layers that no image, no pull and no container needs, and
// the seals of images that are gone. Call it after containers were removed. It may run
// beside anything: a pull holds its layers, and waits for one that is just being removed.
// Collections take turns: what could be collected when it was called is gone when it returns.
func (s *Service) Collect(ctx context.Context) error {
	select {
	case s.collecting <- struct{}{}:
		defer func() { <-s.collecting }()
	case <-ctx.Done():
		return fmt.Errorf("collect: %w", ctx.Err())
	}
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
			errs = append(errs, fmt.Errorf("collect: %w", err))
		}
		s.guard.left(keys)
	}
	removed := false
	for _, d := range s.candidates.list() {
		keys := s.guard.take([]string{d.String()}, s.needed)
		if len(keys) == 0 {
			continue
		}
		err := s.layers.RemoveLayer(ctx, d)
		if err == nil {
			removed = true
			s.candidates.remove(d)
		} else if !errors.Is(err, snapshot.ErrInUse) {
			errs = append(errs, fmt.Errorf("collect: %w", err))
		}
		s.guard.left(keys)
		if ctx.Err() != nil {
			break
		}
	}
	if removed {
		s.remeasure(ctx)
	}
	return errors.Join(errs...)
}

// layerSet is the layers that Collect looks at: all that were here at the start or came
// since. Container removals call it, and it must not read the disk for nothing. The zero value is ready.
type layerSet struct {
	mu  sync.Mutex
	all map[digest.Digest]bool
}

func (s *layerSet) add(layers ...digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[digest.Digest]bool{}
	}
	for _, d := range layers {
		s.all[d] = true
	}
}

func (s *layerSet) remove(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, d)
}

func (s *layerSet) list() []digest.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.all))
}

// needed reports whether an image needs the thing key names.
func (s *Service) needed(key string) bool { return s.store.view.Load().needed[key] }
