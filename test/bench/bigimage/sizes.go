package bigimage

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Sizes are all that a pull of the image in that packing transfers: manifest, configuration
// and layers, in bytes.
func (l Layout) Sizes(packing string) (map[digest.Digest]int64, error) {
	var index ocispec.Index
	if err := readJSON(filepath.Join(l.Dir, ocispec.ImageIndexFile), &index); err != nil {
		return nil, err
	}
	for _, d := range index.Manifests {
		if d.Annotations[ocispec.AnnotationRefName] != packing {
			continue
		}
		var m ocispec.Manifest
		if err := readJSON(l.Blob(d.Digest), &m); err != nil {
			return nil, err
		}
		sizes := map[digest.Digest]int64{d.Digest: d.Size, m.Config.Digest: m.Config.Size}
		for _, layer := range m.Layers {
			sizes[layer.Digest] = layer.Size
		}
		return sizes, nil
	}
	return nil, fmt.Errorf("no image is packed with %s", packing)
}

// Blob is the file with the content d.
func (l Layout) Blob(d digest.Digest) string {
	return filepath.Join(l.Dir, "blobs", "sha256", d.Encoded())
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
