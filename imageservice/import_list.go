package imageservice

import (
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/imageservice/compressed"
	"github.com/berthd/berth/imageservice/registry"
)

// Caps on an archive's lists, beside those of their documents.
const (
	maxManifest  = registry.MaxManifest
	maxArchived  = 1000     // images of an archive
	maxDocuments = 64 << 20 // bytes of all their documents
)

// annotationImageName is a full name, as containerd and docker save write it. The
// specification's annotation is a tag alone more often than not.
const annotationImageName = "io.containerd.image.name"

// dockerManifest is the list of images in what docker save writes.
const dockerManifest = "manifest.json"

// A listedImage is what an archive's list says of an image.
type listedImage struct {
	names  []reference.Named
	target ocispec.Descriptor // of its manifest, or of an index
}

// layout reads the list of an OCI image layout (image-layout.md).
func (b *archiveBlobs) layout() ([]listedImage, error) {
	data, err := b.archive.Bytes(ocispec.ImageLayoutFile, maxManifest)
	if err != nil {
		return nil, missing(err)
	}
	var layout ocispec.ImageLayout
	if err := json.Unmarshal(data, &layout); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", ocispec.ImageLayoutFile, err, ErrCorrupt)
	}
	if !strings.HasPrefix(layout.Version, "1.") {
		return nil, fmt.Errorf("%s: version %.40q: %w", ocispec.ImageLayoutFile, layout.Version, ErrUnsupported)
	}
	if data, err = b.archive.Bytes(ocispec.ImageIndexFile, maxManifest); err != nil {
		return nil, missing(err)
	}
	doc, err := parseDocument(data, "", "")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
	}
	if !doc.isIndex {
		return nil, fmt.Errorf("%s: is no index: %w", ocispec.ImageIndexFile, ErrCorrupt)
	}
	if len(doc.index) > maxArchived {
		return nil, fmt.Errorf("%s: more than %d images: %w", ocispec.ImageIndexFile, maxArchived, ErrTooLarge)
	}
	return group(doc.index)
}

// group puts the descriptors of one image together: it has a line for each of its names. Two
// images under one name are left for rename to refuse, unless they are of different
// platforms: then ours is taken.
func group(index []ocispec.Descriptor) ([]listedImage, error) {
	var listed []listedImage
	byDigest, byName := map[digest.Digest]int{}, map[string][]ocispec.Descriptor{}
	var order []string
	for _, d := range index {
		if err := registry.CheckDigest(d.Digest); err != nil {
			return nil, fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
		}
		name := nameFrom(d.Annotations)
		if byName[name] == nil {
			order = append(order, name)
		}
		byName[name] = append(byName[name], d)
	}
	for _, name := range order {
		same := byName[name]
		if len(same) > 1 && onePlatformEach(same) {
			d, err := choose(same)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
			}
			same = []ocispec.Descriptor{d}
		}
		for _, d := range same {
			i, ok := byDigest[d.Digest]
			if !ok {
				i = len(listed)
				byDigest[d.Digest] = i
				listed = append(listed, listedImage{target: ocispec.Descriptor{Digest: d.Digest, Size: d.Size, MediaType: d.MediaType}})
			}
			if name == "" {
				continue
			}
			named, err := parseName(name)
			if err != nil {
				return nil, err
			}
			listed[i].names = append(listed[i].names, named)
		}
	}
	return listed, nil
}

// nameFrom is the name that annotations give an image, "" for none: a tag alone names nothing.
func nameFrom(annotations map[string]string) string {
	if name := annotations[annotationImageName]; name != "" {
		return name
	}
	if name := annotations[ocispec.AnnotationRefName]; strings.ContainsAny(name, "/:") {
		return name
	}
	return ""
}

// onePlatformEach tells whether descriptors are one image for several platforms.
func onePlatformEach(list []ocispec.Descriptor) bool {
	seen := map[string]bool{}
	for _, d := range list {
		if d.Platform == nil {
			return false
		}
		key := d.Platform.OS + "/" + d.Platform.Architecture + "/" + d.Platform.Variant
		if seen[key] {
			return false
		}
		seen[key] = true
	}
	return true
}

// docker reads the list of what docker save writes, and makes the manifests that its images
// lack.
func (b *archiveBlobs) docker() ([]listedImage, error) {
	data, err := b.archive.Bytes(dockerManifest, maxManifest)
	if err != nil {
		return nil, fmt.Errorf("neither an OCI image layout nor of docker save: %w", missing(err))
	}
	var list []json.RawMessage
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", dockerManifest, err, ErrCorrupt)
	}
	if len(list) > maxArchived {
		return nil, fmt.Errorf("%s: more than %d images: %w", dockerManifest, maxArchived, ErrTooLarge)
	}
	var listed []listedImage
	for _, raw := range list {
		top, err := topLevel(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dockerManifest, err)
		}
		var one struct {
			config       string
			tags, layers []string
		}
		if err := pick(top, map[string]any{"Config": &one.config, "RepoTags": &one.tags, "Layers": &one.layers}); err != nil {
			return nil, fmt.Errorf("%s: %w", dockerManifest, err)
		}
		l := listedImage{}
		if l.target, err = b.makeManifest(one.config, one.layers); err != nil {
			return nil, err
		}
		for _, tag := range one.tags {
			named, err := parseName(tag)
			if err != nil {
				return nil, err
			}
			l.names = append(l.names, named)
		}
		listed = append(listed, l)
	}
	return listed, nil
}

// makeManifest makes an image's manifest from the names of its files.
func (b *archiveBlobs) makeManifest(config string, layers []string) (ocispec.Descriptor, error) {
	data, err := b.archive.Bytes(config, maxConfig)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("configuration: %w", missing(err))
	}
	if err := b.afford(data); err != nil {
		return ocispec.Descriptor{}, err
	}
	id := digest.FromBytes(data)
	// It is called by its digest.
	if hex := strings.TrimSuffix(path.Base(config), ".json"); digest.NewDigestFromEncoded(digest.SHA256, hex).Validate() == nil && hex != id.Encoded() {
		return ocispec.Descriptor{}, fmt.Errorf("configuration %.100q: content has digest %s: %w", config, id, ErrCorrupt)
	}
	b.made[id] = data
	if len(layers) > maxLayers {
		return ocispec.Descriptor{}, fmt.Errorf("%s: %d layers, more than %d: %w", dockerManifest, len(layers), maxLayers, ErrTooLarge)
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{},
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: id, Size: int64(len(data))},
	}
	for _, name := range layers {
		d, err := b.describe(name)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		m.Layers = append(m.Layers, d)
	}
	if data, err = json.Marshal(m); err != nil {
		return ocispec.Descriptor{}, err
	}
	d := digest.FromBytes(data)
	b.made[d] = data
	return ocispec.Descriptor{MediaType: m.MediaType, Digest: d, Size: int64(len(data))}, nil
}

// describe finds out a layer's digest and how it is compressed.
func (b *archiveBlobs) describe(name string) (ocispec.Descriptor, error) {
	if d, ok := b.described[name]; ok {
		return d, nil
	}
	r, err := b.archive.Open(name)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("layer: %w", missing(err))
	}
	var magic [compressed.MagicLen]byte
	n, _ := r.ReadAt(magic[:], 0) // a short one is plain
	mediaType := ocispec.MediaTypeImageLayer
	switch compressed.KindOf(magic[:n]) {
	case compressed.Gzip:
		mediaType = ocispec.MediaTypeImageLayerGzip
	case compressed.Zstd:
		mediaType = ocispec.MediaTypeImageLayerZstd
	}
	hash := digest.SHA256.Digester()
	if _, err := io.Copy(hash.Hash(), r); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("layer: %w", err)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: hash.Digest(), Size: r.Size()}
	b.at[d.Digest], b.described[name] = name, d
	return d, nil
}
