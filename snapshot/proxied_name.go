package snapshot

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

// The names of our snapshots.
const (
	ourPrefix    = "berth/"
	layerPrefix  = "berth/layer/"  // and the chain ID of a layer and those below it (image-spec, config.md)
	unpackPrefix = "berth/unpack/" // a layer being unpacked
	rootPrefix   = "berth/root/"   // and a container's ID, and what it reads
)

// snapshotNames names the committed snapshots of a chain of layers, base first.
func snapshotNames(diffIDs []digest.Digest) []string {
	ids := identity.ChainIDs(append([]digest.Digest(nil), diffIDs...))
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = layerPrefix + id.String()
	}
	return out
}

// top names the snapshot of all layers of a chain; "" when there are none.
func topName(diffIDs []digest.Digest) string {
	if len(diffIDs) == 0 {
		return ""
	}
	names := snapshotNames(diffIDs)
	return names[len(names)-1]
}

func checkChain(diffIDs []digest.Digest) error {
	for _, d := range diffIDs {
		if err := d.Validate(); err != nil {
			return fmt.Errorf("layer %.100q: %w: %w", d, ErrInvalid, err)
		}
	}
	return nil
}

// mountsOf are the mounts that a process named.
func mountsOf(in []*types.Mount) ([]Mount, error) {
	if len(in) == 0 {
		return nil, fmt.Errorf("the snapshot proxy names nothing to mount: %w", ErrUnsupported)
	}
	var out []Mount
	for _, m := range in {
		if m.GetTarget() != "" || strings.Contains(m.GetType(), "/") {
			return nil, fmt.Errorf("the snapshot proxy names a mount of type %q at %q, which only containerd makes: %w", m.GetType(), m.GetTarget(), ErrUnsupported)
		}
		out = append(out, Mount{Type: m.GetType(), Source: m.GetSource(), Options: m.GetOptions()})
	}
	return out, nil
}

// A keyLocks has things done one after the other for one key. The zero value is ready.
type keyLocks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when it is free
}

// lock waits for its turn, or the context's end. Call what it returns.
func (k *keyLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		k.mu.Lock()
		taken := k.held[key]
		if taken == nil {
			if k.held == nil {
				k.held = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			k.held[key] = mine
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				defer k.mu.Unlock()
				delete(k.held, key)
				close(mine)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-taken:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
