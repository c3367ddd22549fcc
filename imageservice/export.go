package imageservice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/distribution/reference"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/imageservice/imagefile"
	"github.com/berthd/berth/snapshot"
	"github.com/berthd/berth/snapshot/durable"
)

// A Compression is how a layer's archive becomes a blob.
type Compression string

// The compressions that there are.
const (
	Uncompressed Compression = ""
	Gzip         Compression = "gzip"
	Zstd         Compression = "zstd"
)

func (c Compression) mediaType() string {
	switch c {
	case Gzip:
		return ocispec.MediaTypeImageLayerGzip
	case Zstd:
		return ocispec.MediaTypeImageLayerZstd
	}
	return ocispec.MediaTypeImageLayer
}

// writer compresses to w; Close ends that and leaves w open.
func (c Compression) writer(w io.Writer) (io.WriteCloser, error) {
	switch c {
	case Uncompressed:
		return plainWriter{w}, nil
	case Gzip:
		return gzip.NewWriterLevel(w, gzip.DefaultCompression)
	case Zstd:
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	}
	return nil, fmt.Errorf("compression %.40q: not gzip or zstd: %w", string(c), ErrInvalidOption)
}

type plainWriter struct{ io.Writer }

func (plainWriter) Close() error { return nil }

// An ExportRequest asks for an archive of images.
type ExportRequest struct {
	Images   []string // names or IDs. By a tag, the image has that name alone in the archive
	Docker   bool     // as docker save writes it; else an OCI image layout
	Compress Compression
	To       io.Writer
}

// Export writes an archive of images. Their configurations, and so their IDs, are as they
// are here. The blobs that their registries have are not kept on a node: layers are made
// again from the disk, byte for byte, and unless these are the blobs, the manifest is a new
// one and has another digest. All is looked at before the first byte is written. Errors:
// this package's (ErrNoArchive), snapshot's, To's own, the context's, or the disk's.
func (s *Service) Export(ctx context.Context, req ExportRequest) error {
	if req.Docker && req.Compress != Uncompressed {
		return fmt.Errorf("export: docker's archives are of layers that are not compressed: %w", ErrInvalidOption)
	}
	if _, err := req.Compress.writer(io.Discard); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	chosen, err := s.exported(req.Images)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	e := &export{service: s, req: req, to: imagefile.NewWriter(req.To), layers: map[digest.Digest]ocispec.Descriptor{}}
	for _, one := range chosen {
		if err := e.add(ctx, one); err != nil {
			return fmt.Errorf("export %s: %w", one.image.ID, err)
		}
	}
	if err := e.end(); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

// An exportedImage is an image and the names that it is to have.
type exportedImage struct {
	image Image
	tags  []string
}

// exported finds images. One that is named twice is one image.
func (s *Service) exported(refs []string) (out []exportedImage, err error) {
	if len(refs) == 0 {
		return nil, fmt.Errorf("no image is named: %w", ErrInvalidReference)
	}
	for _, ref := range refs {
		img, err := s.Get(ref)
		if err != nil {
			return nil, err
		}
		if img.IsArtifact() {
			return nil, fmt.Errorf("%.300s: is an artifact; pull it where it is wanted: %w", ref, ErrNoArchive)
		}
		tags := img.Tags
		if named, err := parseName(ref); err == nil && slices.Contains(tags, named.String()) {
			tags = []string{named.String()}
		}
		i := slices.IndexFunc(out, func(e exportedImage) bool { return e.image.ID == img.ID })
		if i < 0 {
			i = len(out)
			out = append(out, exportedImage{image: img})
		}
		for _, tag := range tags {
			if !slices.Contains(out[i].tags, tag) {
				out[i].tags = append(out[i].tags, tag)
			}
		}
	}
	return out, nil
}

// An export is an archive being written.
type export struct {
	service *Service
	req     ExportRequest
	to      *imagefile.Writer
	layers  map[digest.Digest]ocispec.Descriptor // that are written, by diff ID
	index   []ocispec.Descriptor
	docker  []dockerImage
}

// A dockerImage is an image in manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (e *export) add(ctx context.Context, one exportedImage) error {
	s := e.service
	keys := guardKeys(one.image.DiffIDs)
	if err := s.guard.hold(ctx, keys); err != nil {
		return err
	}
	defer s.guard.release(keys)
	rec, ok := s.store.record(one.image.ID)
	if !ok {
		return ErrNotFound // it has just gone
	}
	old, err := s.store.documents(rec)
	if err != nil {
		return err
	}
	var layers []ocispec.Descriptor
	for _, d := range one.image.DiffIDs {
		desc, ok := e.layers[d]
		if !ok {
			if desc, err = e.addLayer(ctx, d); err != nil {
				return err
			}
			e.layers[d] = desc
		}
		layers = append(layers, desc)
	}
	if e.req.Docker {
		return e.addDocker(one, old.config, layers)
	}
	manifest, err := manifestOf(old, layers)
	if err != nil {
		return err
	}
	d := digest.FromBytes(manifest)
	if err := e.to.AddBytes(imagefile.BlobName(one.image.ID), old.config); err != nil {
		return err
	}
	if err := e.to.AddBytes(imagefile.BlobName(d), manifest); err != nil {
		return err
	}
	desc := ocispec.Descriptor{MediaType: mediaTypeOf(manifest), Digest: d, Size: int64(len(manifest))}
	for _, tag := range one.tags {
		named := desc
		named.Annotations = map[string]string{annotationImageName: tag}
		if ref, err := reference.ParseNormalizedNamed(tag); err == nil {
			named.Annotations[ocispec.AnnotationRefName] = tagOrDigest(ref)
		}
		e.index = append(e.index, named)
	}
	if len(one.tags) == 0 {
		e.index = append(e.index, desc)
	}
	return nil
}

// addLayer makes a layer's blob in a file without a name, since an archive has the size of
// what comes before it, and writes it.
func (e *export) addLayer(ctx context.Context, diffID digest.Digest) (ocispec.Descriptor, error) {
	desc, file, err := e.service.pack(ctx, diffID, e.req.Compress)
	if err != nil {
		return desc, err
	}
	defer file.Close()
	name := imagefile.BlobName(desc.Digest)
	if e.req.Docker {
		name = dockerLayer(desc)
	}
	return desc, e.to.Add(name, desc.Size, io.NewSectionReader(file, 0, desc.Size))
}

func dockerLayer(desc ocispec.Descriptor) string { return desc.Digest.Encoded() + "/layer.tar" }

func (e *export) addDocker(one exportedImage, config []byte, layers []ocispec.Descriptor) error {
	img := dockerImage{Config: one.image.ID.Encoded() + ".json", RepoTags: one.tags, Layers: []string{}}
	for _, l := range layers {
		img.Layers = append(img.Layers, dockerLayer(l))
	}
	e.docker = append(e.docker, img)
	return e.to.AddBytes(img.Config, config)
}

func (e *export) end() error {
	var err error
	if e.req.Docker {
		err = e.to.AddJSON(dockerManifest, e.docker)
	} else {
		err = e.to.AddLayout(e.index)
	}
	if err != nil {
		return err
	}
	return e.to.Close()
}

// pack makes the blob of a layer in a file without a name, which the caller closes.
func (s *Service) pack(ctx context.Context, diffID digest.Digest, how Compression) (ocispec.Descriptor, *os.File, error) {
	file, err := durable.Scratch(s.root)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	desc, err := s.packTo(ctx, diffID, how, file)
	if err != nil {
		file.Close()
		return ocispec.Descriptor{}, nil, err
	}
	return desc, file, nil
}

func (s *Service) packTo(ctx context.Context, diffID digest.Digest, how Compression, file io.Writer) (ocispec.Descriptor, error) {
	hash := digest.SHA256.Digester()
	out := &counter{to: io.MultiWriter(file, hash.Hash())}
	z, err := how.writer(out)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if err := s.layers.Archive(ctx, diffID, z); err != nil {
		z.Close() // ends what it runs; its output is of no use
		if errors.Is(err, snapshot.ErrUnsupported) {
			err = fmt.Errorf("%w: %w", err, ErrNoArchive)
		}
		return ocispec.Descriptor{}, err
	}
	if err := z.Close(); err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{MediaType: how.mediaType(), Digest: hash.Digest(), Size: out.n}, nil
}

// A counter counts what is written.
type counter struct {
	to io.Writer
	n  int64
}

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.n += int64(n)
	return n, err
}

// manifestOf is the manifest of an image with those layers: the one that it has, where they are
// the layers in it.
func manifestOf(old description, layers []ocispec.Descriptor) ([]byte, error) {
	if slices.EqualFunc(old.doc.layers, layers, func(a, b ocispec.Descriptor) bool { return a.Digest == b.Digest }) {
		return old.manifest, nil
	}
	if layers == nil {
		layers = []ocispec.Descriptor{}
	}
	return json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: layers,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: old.rec.image.ID, Size: int64(len(old.config))},
	})
}

// mediaTypeOf is what a manifest says it is; one that does not say is OCI's.
func mediaTypeOf(manifest []byte) string {
	var own struct {
		MediaType string `json:"mediaType"`
	}
	if json.Unmarshal(manifest, &own) != nil || own.MediaType == "" {
		return ocispec.MediaTypeImageManifest
	}
	return own.MediaType
}
