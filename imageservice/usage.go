package imageservice

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"k8s.io/klog/v2"
)

// FsUsage is what images take on disk.
type FsUsage struct {
	Mountpoint string // a directory on the file system in question; kubelet asks statfs about it
	Bytes      uint64 // allocated
	Inodes     uint64
	At         time.Time // when this was measured
}

// Usage returns the latest measurement, at once. One is made by Open and after every
// pull and removal. The error is reserved.
func (s *Service) Usage(context.Context) (FsUsage, error) { return *s.usage.Load(), nil }

// measure adds up what layers and documents take. Compressed blobs are not kept, so
// this is all there is.
func (s *Service) measure(ctx context.Context) error {
	s.measuring.Lock()
	defer s.measuring.Unlock()
	u := FsUsage{Mountpoint: s.root, At: time.Now()}
	layers, err := s.layers.ListLayers(ctx)
	if err != nil {
		return fmt.Errorf("usage: %w", err)
	}
	for _, l := range layers {
		s.candidates.add(l.DiffID)
		u.Bytes += l.Bytes
		u.Inodes += l.Inodes
	}
	for _, kind := range []string{"manifests", "configs"} {
		entries, err := os.ReadDir(filepath.Join(s.root, kind, "sha256"))
		if err != nil {
			return fmt.Errorf("usage: %w", err)
		}
		for _, e := range entries {
			if info, err := e.Info(); err == nil { // else it has just gone
				u.Bytes += uint64(info.Size()+4095) &^ 4095
				u.Inodes++
			}
		}
	}
	s.usage.Store(&u)
	return nil
}

// remeasure measures in the background. Close waits for it.
func (s *Service) remeasure(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	s.background.Go(func() {
		if err := s.measure(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "Images' disk usage was not measured; the last figure stays")
		}
	})
}
