package imageservice

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/snapshot"
)

// FsUsage is what images take on disk.
type FsUsage struct {
	Mountpoint string // a directory on the file system in question; kubelet asks statfs about it
	Bytes      uint64 // allocated
	Inodes     uint64
	At         time.Time // when this was measured
}

// pending is what a driver tells of layers that are being added.
type pending interface {
	Pending(ctx context.Context) (snapshot.Usage, error)
}

// Usage returns the latest measurement, which is made by Open and after every pull and
// removal, and adds what pulls under way take: the blobs that they keep now, and layers that
// are being unpacked as they were when the driver last measured them, in the background. It
// looks at no tree, so it answers at once.
func (s *Service) Usage(ctx context.Context) (FsUsage, error) {
	u := *s.usage.Load()
	bytes, inodes, err := s.downloads.Usage()
	if err != nil {
		return FsUsage{}, fmt.Errorf("usage: %w", err)
	}
	u.Bytes, u.Inodes = u.Bytes+bytes, u.Inodes+inodes
	if p, ok := s.layers.(pending); ok {
		growing, err := p.Pending(ctx)
		if err != nil {
			return FsUsage{}, fmt.Errorf("usage: %w", err)
		}
		u.Bytes, u.Inodes = u.Bytes+growing.Bytes, u.Inodes+growing.Inodes
	}
	return u, nil
}

// Mountpoint is Usage's, which is always the same.
func (s *Service) Mountpoint() string { return s.usage.Load().Mountpoint }

// measure adds up what layers and documents take. What is under way is not in it.
func (s *Service) measure(ctx context.Context) error {
	s.measuring.Lock()
	defer s.measuring.Unlock()
	u := FsUsage{Mountpoint: s.root, At: time.Now()}
	layers, err := s.layers.ListLayers(ctx)
	if err != nil {
		return fmt.Errorf("usage: %w", err)
	}
	for _, l := range layers {
		if !s.store.aside {
			s.candidates.find(l.DiffID)
		}
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
