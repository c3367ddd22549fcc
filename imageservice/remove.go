package imageservice

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/snapshot"
	"github.com/berthd/berth/snapshot/durable"
)

// Remove takes an image away: all names of its ID, as CRI's RemoveImage wants, then
// the layers that nobody else needs. Layers that containers use stay until
// Collect. An absent image is fine; ErrAmbiguous.
func (s *Service) Remove(ctx context.Context, ref string) error {
	img, err := s.store.view.Load().find(ref) // also when it has lost a layer
	if errors.Is(err, ErrNotFound) {          // a removal that a crash cut short may have left its layers
		return s.Collect(ctx)
	}
	if err != nil {
		return fmt.Errorf("image %.300q: %w", ref, err)
	}
	s.candidates.add(img.DiffIDs...)
	if err := s.store.drop(img.ID); err != nil {
		return fmt.Errorf("image %s: remove: %w", img.ID, err)
	}
	err = s.Collect(ctx)
	if left := s.store.reserve.Fill(); left != nil && !durable.IsFull(left) { // full: the next removal may help
		err = errors.Join(err, left)
	}
	return err
}

// Vacate removes what no image needs, at once: also the layers that are spared for a pull
// that may come again, and the downloads that were cut short.
func (s *Service) Vacate(ctx context.Context) error {
	s.candidates.spareNone()
	return errors.Join(s.Collect(ctx), s.downloads.Empty(ctx))
}

// Collect removes the layers that no image, no pull and no container needs, and
// the seals of images that are gone. Layers that no image has had are spared for an hour
// after they came. Call it after containers were removed. It may run
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
	for _, d := range s.candidates.list(s.now()) {
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
	errs = append(errs, s.downloads.Prune(ctx))
	if removed {
		s.remeasure(ctx)
	}
	return errors.Join(errs...)
}

// spareTime is how long Collect leaves layers alone that no image has had yet: those of a
// pull that was cut short, which kubelet asks for again.
const spareTime = time.Hour

// layerSet is the layers that Collect looks at: all that were here at the start or came
// since, each with the time up to which it is spared. Container removals call it, and it
// must not read the disk for nothing. The zero value is ready.
type layerSet struct {
	mu  sync.Mutex
	all map[digest.Digest]time.Time
}

// add adds layers that may go at once.
func (s *layerSet) add(layers ...digest.Digest) { s.put(time.Time{}, true, layers) }

// find adds layers that may go at once, but for those that are there.
func (s *layerSet) find(layers ...digest.Digest) { s.put(time.Time{}, false, layers) }

// spare adds layers that may go later.
func (s *layerSet) spare(layers ...digest.Digest) { s.put(time.Now().Add(spareTime), true, layers) }

// spareNone has all that are in it go at once.
func (s *layerSet) spareNone() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d := range s.all {
		s.all[d] = time.Time{}
	}
}

func (s *layerSet) put(until time.Time, always bool, layers []digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[digest.Digest]time.Time{}
	}
	for _, d := range layers {
		if _, ok := s.all[d]; always || !ok {
			s.all[d] = until
		}
	}
}

func (s *layerSet) remove(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, d)
}

// list lists those that are not spared.
func (s *layerSet) list(now time.Time) []digest.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []digest.Digest
	for d, until := range s.all {
		if !now.Before(until) {
			out = append(out, d)
		}
	}
	slices.Sort(out)
	return out
}

// needed reports whether an image needs the thing key names.
func (s *Service) needed(key string) bool { return s.store.view.Load().needed[key] }
