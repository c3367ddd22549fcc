package imageservice

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An artifact is a manifest that is no container image (OCI image specification, manifest.md,
// "Guidelines for Artifact Usage"): a model, a chart, a set of files. Nothing can be run
// from it; it can be mounted as an image volume (KEP-4639).
//
// Each blob that the manifest lists is one file of that volume: its bytes as they are,
// also those of an archive, root's, with mode 0644. It is called by the blob's title
// annotation, or else by its digest. Its layer is a tar archive of that one file, made on the
// way from the registry to the disk; so everything that is done with layers works.
// The configuration is of no use to a volume and is not fetched.
//
// An artifact goes by its manifest's digest: many share one configuration, the empty one.

// Caps on what an artifact may bring, beside maxLayers.
const (
	maxArtifact  = 1 << 40 // bytes of all its blobs
	maxTitle     = 1024    // bytes of a file's name in the artifact
	maxTitlePart = 255     // bytes of one part of it, the kernel's NAME_MAX
)

// isArtifact tells whether a manifest is an artifact: its configuration is no image's, or
// its artifactType says so.
func (d document) isArtifact() bool {
	return !isConfigType(d.config.MediaType) || d.artifact != "" && d.artifact != d.config.MediaType
}

// artifactType is what kind of artifact it is, which nothing here depends on.
func (d document) artifactType() string {
	t := d.artifact
	if t == "" {
		t = d.config.MediaType
	}
	return t[:min(len(t), maxTitlePart)]
}

func isConfigType(t string) bool {
	return t == ocispec.MediaTypeImageConfig || t == mediaTypeDockerConfig
}

// checkArtifact refuses an artifact that cannot be a volume. Its digests and sizes are
// known to be some.
func (d document) checkArtifact() error {
	if d.artifact == "" && d.config.MediaType == "" {
		return fmt.Errorf("manifest: does not say what it is of: its configuration has no media type: %w", ErrCorrupt)
	}
	var size int64
	for _, l := range d.layers {
		if size += l.Size; size > maxArtifact {
			return fmt.Errorf("manifest: an artifact of more than %d bytes: %w", int64(maxArtifact), ErrTooLarge)
		}
	}
	// taken are the names of files, and folders those that files are in.
	taken, folders := map[string]bool{}, map[string]bool{}
	for _, name := range d.files() {
		if taken[name] || folders[name] {
			return fmt.Errorf("manifest: an artifact with two files %.300q: %w", name, ErrCorrupt)
		}
		taken[name] = true
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if taken[dir] {
				return fmt.Errorf("manifest: an artifact in which %.300q is a file and a folder: %w", dir, ErrCorrupt)
			}
			folders[dir] = true
		}
	}
	return nil
}

// files are the names of an artifact's files, one for each of its blobs in their order.
func (d document) files() []string {
	var names []string
	for _, l := range d.layers {
		name := l.Annotations[ocispec.AnnotationTitle]
		if !isFileName(name) {
			name = "sha256-" + l.Digest.Encoded()
		}
		names = append(names, name)
	}
	return names
}

// isFileName tells whether a title is a relative path that stays below its folder, and
// means nothing else to tar, overlayfs or a terminal.
func isFileName(s string) bool {
	if s == "" || len(s) > maxTitle || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return false
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || part == "." || part == ".." || strings.HasPrefix(part, ".wh.") || len(part) > maxTitlePart {
			return false
		}
	}
	return true
}

// artifactImage is the image that an artifact's manifest is.
func (d document) artifactImage(id digest.Digest, manifest []byte) Image {
	img := Image{ID: id, ArtifactType: d.artifactType(), Files: d.files(), Size: d.layerBytes() + int64(len(manifest))}
	for i, name := range img.Files {
		img.DiffIDs = append(img.DiffIDs, fileDiffID(d.layers[i].Digest, name))
	}
	return img
}

// fileDiffID names the layer that has the blob as the one file name. It is no archive's
// digest: what is hashed in the end is shorter than the shortest archive.
func fileDiffID(blob digest.Digest, name string) digest.Digest {
	return digest.FromString("artifact file 1 " + digest.FromString(blob.String()+" "+name).Encoded())
}

// fileArchive is a tar archive of one file whose size bytes content has.
func fileArchive(name string, size int64, content io.Reader) (io.Reader, error) {
	var head bytes.Buffer
	err := tar.NewWriter(&head).WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
	})
	if err != nil {
		return nil, err
	}
	const block = 512
	tail := make([]byte, (block-size%block)%block+2*block)
	return io.MultiReader(&head, content, bytes.NewReader(tail)), nil
}
