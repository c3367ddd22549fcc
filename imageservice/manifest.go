package imageservice

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/imageservice/registry"
)

// Media types that image-spec does not name.
const (
	mediaTypeDockerConfig = "application/vnd.docker.container.image.v1+json"
	mediaTypeDockerLayer  = "application/vnd.docker.image.rootfs.diff.tar"
	mediaTypeNydusBlob    = "application/vnd.oci.image.layer.nydus.blob.v1" // no archive (nydus-snapshotter, pkg/converter)
	dockerSchema1         = "application/vnd.docker.distribution.manifest.v1+"
)

// A document is a parsed manifest or index: one of the two.
type document struct {
	index    []ocispec.Descriptor // of an index
	config   ocispec.Descriptor   // of a manifest
	layers   []ocispec.Descriptor
	isIndex  bool
	artifact string // a manifest's artifactType
}

// parseDocument reads what a registry sent as contentType ("" or a general type: it does not say).
// want is the media type that the descriptor which led here gave, or "". A
// document that could be taken for both a manifest and an index, or is not what somebody called it, is
// ErrCorrupt: two readers must not see two images (GHSA-5j5w-g665-5m35, CVE-2021-41190).
func parseDocument(data []byte, contentType, want string) (document, error) {
	top, err := topLevel(data)
	if err != nil {
		return document{}, err
	}
	var own struct {
		SchemaVersion int    `json:"schemaVersion"`
		MediaType     string `json:"mediaType"`
		ArtifactType  string `json:"artifactType"`
	}
	if err := pick(top, map[string]any{"schemaVersion": &own.SchemaVersion, "mediaType": &own.MediaType, "artifactType": &own.ArtifactType}); err != nil {
		return document{}, err
	}
	contentType = generalise(contentType)
	if strings.HasPrefix(contentType, dockerSchema1) || own.SchemaVersion == 1 || top["fsLayers"] != nil {
		return document{}, fmt.Errorf("manifest: Docker schema 1, which no registry should serve any more: push the image again: %w", ErrUnsupported)
	}
	if own.SchemaVersion != 2 {
		return document{}, fmt.Errorf("manifest: schema version %d: %w", own.SchemaVersion, ErrCorrupt)
	}
	mediaType, err := agree(own.MediaType, contentType, want)
	if err != nil {
		return document{}, err
	}
	_, hasManifests := top["manifests"]
	_, hasLayers := top["layers"]
	_, hasConfig := top["config"]
	if hasManifests && (hasLayers || hasConfig) {
		return document{}, fmt.Errorf("manifest: is a manifest and an index at once: %w", ErrCorrupt)
	}
	doc := document{isIndex: hasManifests, artifact: own.ArtifactType}
	switch {
	case mediaType != "" && isIndexType(mediaType) != hasManifests:
		return document{}, fmt.Errorf("manifest: is no %s: %w", mediaType, ErrCorrupt)
	case hasManifests:
		err = pick(top, map[string]any{"manifests": &doc.index})
	case hasConfig && hasLayers:
		err = pick(top, map[string]any{"config": &doc.config, "layers": &doc.layers})
	default:
		err = fmt.Errorf("manifest: neither a manifest nor an index: %w", ErrCorrupt)
	}
	return doc, err
}

// topLevel splits a JSON object by its exact keys. Keys that differ in case alone, or
// not at all, are refused: decoders disagree about which of them counts.
func topLevel(data []byte) (map[string]json.RawMessage, error) {
	if len(data) > registry.MaxManifest {
		return nil, fmt.Errorf("manifest: more than %d bytes: %w", registry.MaxManifest, ErrTooLarge)
	}
	bad := func(err error) error { return fmt.Errorf("manifest: %w: %w", err, ErrCorrupt) }
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil {
		return nil, bad(err)
	} else if t != json.Delim('{') {
		return nil, fmt.Errorf("manifest: not a JSON object: %w", ErrCorrupt)
	}
	top, seen := map[string]json.RawMessage{}, map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, bad(err)
		}
		key, _ := t.(string)
		if folded := strings.ToLower(key); seen[folded] {
			return nil, fmt.Errorf("manifest: key %.40q twice: %w", key, ErrCorrupt)
		} else {
			seen[folded] = true
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, bad(err)
		}
		top[key] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, bad(err)
	}
	if dec.More() {
		return nil, fmt.Errorf("manifest: more than one document: %w", ErrCorrupt)
	}
	return top, nil
}

// pick decodes some keys of an object. An absent one is left alone.
func pick(top map[string]json.RawMessage, into map[string]any) error {
	for key, v := range into {
		raw, ok := top[key]
		if !ok {
			continue
		}
		if err := json.Unmarshal(raw, v); err != nil {
			return fmt.Errorf("manifest: %s: %w: %w", key, err, ErrCorrupt)
		}
	}
	return nil
}

// agree makes one media type of what everybody says, "" when nobody says anything.
func agree(names ...string) (string, error) {
	var agreed string
	for _, name := range names {
		switch {
		case name == "":
		case !isIndexType(name) && !isManifestType(name):
			return "", fmt.Errorf("manifest: media type %.100q: %w", name, ErrUnsupported)
		case agreed != "" && name != agreed:
			return "", fmt.Errorf("manifest: called %s and %s: %w", agreed, name, ErrCorrupt)
		default:
			agreed = name
		}
	}
	return agreed, nil
}

// generalise strips a Content-Type's parameters, and makes "" of the types that say nothing.
func generalise(contentType string) string {
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		t, _, _ = strings.Cut(contentType, ";")
		t = strings.ToLower(strings.TrimSpace(t))
	}
	switch t {
	case "application/json", "application/octet-stream", "text/plain":
		return ""
	}
	return t
}

func isIndexType(t string) bool {
	return t == ocispec.MediaTypeImageIndex || t == registry.MediaTypeDockerManifestList
}

func isManifestType(t string) bool {
	return t == ocispec.MediaTypeImageManifest || t == registry.MediaTypeDockerManifest
}

// layerBytes is the size of all layers as the registry has them.
func (d document) layerBytes() (size int64) {
	for _, l := range d.layers {
		size += l.Size
	}
	return size
}

// check refuses a manifest that is neither a container image we can run nor an artifact
// that can be a volume.
func (d document) check() error {
	switch {
	case d.config.Size > maxConfig && !d.isArtifact():
		return fmt.Errorf("configuration: %d bytes, more than %d: %w", d.config.Size, maxConfig, ErrTooLarge)
	case len(d.layers) > maxLayers:
		return fmt.Errorf("manifest: %d layers, more than %d: %w", len(d.layers), maxLayers, ErrTooLarge)
	}
	for _, l := range slices.Concat([]ocispec.Descriptor{d.config}, d.layers) {
		if err := registry.CheckDigest(l.Digest); err != nil {
			return fmt.Errorf("manifest: %w", err)
		}
		if l.Size < 0 || l.Size > 1<<50 {
			return fmt.Errorf("manifest: %s: size %d: %w", l.Digest, l.Size, ErrCorrupt)
		}
	}
	if d.isArtifact() {
		return d.checkArtifact()
	}
	for _, l := range d.layers {
		if err := checkLayerType(l.MediaType); err != nil {
			return fmt.Errorf("layer %s: %w", l.Digest, err)
		}
	}
	return nil
}

// checkLayerType accepts the types of tar archives, and nydus's, which is not unpacked here
// (addLayers). How one is compressed is seen from its first bytes.
func checkLayerType(t string) error {
	switch t {
	case ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd,
		mediaTypeDockerLayer, mediaTypeDockerLayer + ".gzip", mediaTypeDockerLayer + ".zstd",
		"", "application/octet-stream", "application/gzip", "application/x-gzip", "application/zstd", "application/x-tar",
		mediaTypeNydusBlob:
		return nil
	}
	switch {
	case strings.Contains(t, "nondistributable"), strings.Contains(t, "rootfs.foreign"):
		return fmt.Errorf("non-distributable (%.100q): its registry does not have it: %w", t, ErrUnsupported)
	case strings.HasSuffix(t, "+encrypted"):
		return fmt.Errorf("encrypted (%.100q): %w", t, ErrUnsupported)
	}
	return fmt.Errorf("media type %.100q: %w", t, ErrUnsupported)
}
