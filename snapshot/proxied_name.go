package snapshot

import (
	"fmt"
	"strings"

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
