package images

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Docker's media types. Half of the images are of this form, because registries
// still hold many of them.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// A layer is a packed tar stream and what a manifest and a config say of it.
type layer struct {
	desc   ocispec.Descriptor
	diffID digest.Digest
	blob   []byte
}

// makeLayer packs t.
func makeLayer(p packing, t tree) (layer, error) {
	raw, err := t.tarball()
	if err != nil {
		return layer{}, err
	}
	blob, err := pack(p, raw)
	if err != nil {
		return layer{}, err
	}
	media := map[packing]string{
		packGzip: ocispec.MediaTypeImageLayerGzip,
		packZstd: ocispec.MediaTypeImageLayerZstd,
		packNone: ocispec.MediaTypeImageLayer,
	}[p]
	return layer{
		desc:   ocispec.Descriptor{MediaType: media, Digest: digest.FromBytes(blob), Size: int64(len(blob))},
		diffID: digest.FromBytes(raw),
		blob:   blob,
	}, nil
}

// An image is what one platform's manifest holds.
type image struct {
	arch   string
	docker bool // Docker schema 2 instead of OCI; all layers must be gzip
	config ocispec.ImageConfig
	layers []layer
}

// manifest returns the manifest and the config of i. The config's digest is the
// image's ID.
func (i image) manifest() (manifest, config []byte, mediaType string, err error) {
	created := epoch()
	c := ocispec.Image{
		Created:  &created,
		Platform: ocispec.Platform{Architecture: i.arch, OS: "linux"},
		Config:   i.config,
		RootFS:   ocispec.RootFS{Type: "layers"},
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig},
	}
	if i.docker {
		m.MediaType, m.Config.MediaType = dockerManifest, dockerConfig
	}
	for _, l := range i.layers {
		d := l.desc
		if i.docker {
			if d.MediaType != ocispec.MediaTypeImageLayerGzip {
				return nil, nil, "", fmt.Errorf("layer %s: Docker schema 2 has gzip alone", d.Digest)
			}
			d.MediaType = dockerLayer
		}
		m.Layers = append(m.Layers, d)
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.diffID)
	}
	if config, err = json.Marshal(c); err != nil {
		return nil, nil, "", err
	}
	m.Config.Digest, m.Config.Size = digest.FromBytes(config), int64(len(config))
	manifest, err = json.Marshal(m)
	return manifest, config, m.MediaType, err
}

// An entry is one name of the catalog: a repository, its tags and its images,
// one for each platform. More than one image makes it an index.
type entry struct {
	repo   string
	tags   []string
	images []image
}
