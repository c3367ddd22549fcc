package imageservice

import (
	"fmt"
	"runtime"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// choose picks the manifest for this machine from an index: the first of the best
// variant. An entry without a platform is taken when no other fits.
func choose(index []ocispec.Descriptor) (ocispec.Descriptor, error) {
	best, bestRank := ocispec.Descriptor{}, 0
	for _, d := range index {
		if r := rank(d.Platform, runtime.GOARCH); r > bestRank {
			best, bestRank = d, r
		}
	}
	if bestRank == 0 {
		return best, fmt.Errorf("no image for linux/%s among %d: %w", runtime.GOARCH, len(index), ErrUnsupported)
	}
	return best, nil
}

// rank says how well p fits a machine of architecture arch, 0 meaning not at all.
func rank(p *ocispec.Platform, arch string) int {
	if p == nil {
		return 1
	}
	if p.OS != "linux" || p.Architecture != arch {
		return 0
	}
	// Variants every machine of the architecture that runs Kubernetes can be expected to
	// have, worst first. Go's amd64 and arm64 ports need v1 and v8.
	variants := map[string][]string{"amd64": {"v1", ""}, "arm64": {"v8", ""}, "arm": {"v5", "v6", "", "v7"}}[arch]
	if variants == nil {
		variants = []string{p.Variant}
	}
	for i, v := range variants {
		if v == p.Variant {
			return i + 2
		}
	}
	return 0
}
