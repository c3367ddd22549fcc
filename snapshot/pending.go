package snapshot

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// A growing is the layers that are being added. What they take is measured in the background,
// because that may be a walk through all that has been unpacked.
type growing struct {
	background sync.WaitGroup

	mu        sync.Mutex
	layers    map[string]Usage // by the directory that it is made in; as last measured
	measuring bool
}

// begin notes that a layer is made in the directory tmp, until what it returns is called.
func (g *growing) begin(tmp string) (end func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.layers == nil {
		g.layers = map[string]Usage{}
	}
	g.layers[tmp] = Usage{}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.layers, tmp)
	}
}

// ask adds up what the layers took when they were last measured, and has them measured
// again unless that is under way.
func (g *growing) ask(ctx context.Context) (sum Usage) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var dirs []string
	for dir, u := range g.layers {
		dirs = append(dirs, dir)
		sum.Bytes, sum.Inodes = sum.Bytes+u.Bytes, sum.Inodes+u.Inodes
	}
	if len(dirs) > 0 && !g.measuring {
		g.measuring = true
		ctx := context.WithoutCancel(ctx) // finite work
		g.background.Go(func() { g.measure(ctx, dirs) })
	}
	return sum
}

func (g *growing) measure(ctx context.Context, dirs []string) {
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.measuring = false
	}()
	for _, dir := range dirs {
		u, err := measureDir(ctx, dir)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) { // else it has come where it belongs, or gone
				klog.FromContext(ctx).Error(err, "A layer that is being added was not measured; the last figure stays")
			}
			continue
		}
		g.mu.Lock()
		if _, still := g.layers[dir]; still {
			g.layers[dir] = u
		}
		g.mu.Unlock()
	}
}

func measureDir(ctx context.Context, dir string) (Usage, error) {
	root, err := openAt(dir)
	if err != nil {
		return Usage{}, err
	}
	defer root.close()
	return measure(ctx, root, time.Time{})
}

// Pending is what layers that are being added take on disk, as it was measured after the
// last call; nothing for one that has been begun since. It answers at once.
func (o *overlay) Pending(ctx context.Context) (Usage, error) { return o.growing.ask(ctx), nil }

// isLayer tells whether place is a layer's.
func (o *overlay) isLayer(place string) bool { return filepath.Dir(place) == o.path("layers") }
