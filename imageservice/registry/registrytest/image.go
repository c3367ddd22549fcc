package registrytest

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"log"
	"runtime"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Layer is a layer of an image to be made.
type Layer struct {
	Tar       []byte // the archive; its digest is the diff ID
	Blob      []byte // what is served; nil: Tar
	MediaType string // "": that of a plain archive
}

// An Image is one that AddImage made.
type Image struct {
	Manifest []byte
	Digest   digest.Digest // of the manifest
	ID       digest.Digest // of the configuration; of an artifact's manifest
	DiffIDs  []digest.Digest
	Size     int64 // blobs and configuration; of an artifact, blobs and manifest
}

// Tar makes an archive of files, given as name, content, name, content.
func Tar(files ...string) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := 0; i+1 < len(files); i += 2 {
		must(w.WriteHeader(&tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1])), Typeflag: tar.TypeReg}))
		_, err := io.WriteString(w, files[i+1])
		must(err)
	}
	must(w.Close())
	return buf.Bytes()
}

// Gzip compresses data.
func Gzip(data []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(data)
	must(err)
	must(w.Close())
	return buf.Bytes()
}

// Zstd compresses data.
func Zstd(data []byte) []byte {
	w, err := zstd.NewWriter(nil)
	must(err)
	defer w.Close()
	return w.EncodeAll(data, nil)
}

// GzipLayer is a layer of archive, compressed.
func GzipLayer(archive []byte) Layer {
	return Layer{Tar: archive, Blob: Gzip(archive), MediaType: ocispec.MediaTypeImageLayerGzip}
}

// AddImage stores an image of layers for this machine's platform in repo under
// tag. edit, if not nil, changes configuration and manifest before they are stored.
func (s *Server) AddImage(repo, tag string, layers []Layer, edit func(*ocispec.Image, *ocispec.Manifest)) Image {
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}}
	config.RootFS.Type = "layers"
	config.Config.Env = []string{"PATH=/bin"}
	manifest := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	manifest.SchemaVersion = 2
	manifest.Config.MediaType = ocispec.MediaTypeImageConfig
	manifest.Layers = []ocispec.Descriptor{}
	for _, l := range layers {
		if l.Blob == nil {
			l.Blob = l.Tar
		}
		if l.MediaType == "" {
			l.MediaType = ocispec.MediaTypeImageLayer
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l.Tar))
		manifest.Layers = append(manifest.Layers, ocispec.Descriptor{MediaType: l.MediaType, Digest: s.addBlob(repo, l.Blob), Size: int64(len(l.Blob))})
	}
	if edit != nil {
		edit(&config, &manifest)
	}
	data := JSON(config)
	if manifest.Config.Digest == "" {
		manifest.Config.Digest, manifest.Config.Size = s.addBlob(repo, data), int64(len(data))
	}
	img := Image{ID: manifest.Config.Digest, DiffIDs: config.RootFS.DiffIDs, Manifest: JSON(manifest), Size: manifest.Config.Size}
	for _, l := range manifest.Layers {
		img.Size += l.Size
	}
	img.Digest = s.AddManifest(repo, tag, manifest.MediaType, img.Manifest)
	return img
}

// A File is a blob of an artifact to be made.
type File struct {
	Title     string // "": no title
	Data      []byte
	MediaType string // "": application/octet-stream
}

// AddArtifact stores an artifact of files in repo under tag: a manifest with the empty
// configuration. edit, if not nil, changes it before it is stored.
func (s *Server) AddArtifact(repo, tag, artifactType string, files []File, edit func(*ocispec.Manifest)) Image {
	s.addBlob(repo, ocispec.DescriptorEmptyJSON.Data)
	manifest := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType, Layers: []ocispec.Descriptor{}}
	manifest.SchemaVersion, manifest.Config = 2, ocispec.DescriptorEmptyJSON
	for _, f := range files {
		d := ocispec.Descriptor{MediaType: f.MediaType, Digest: s.addBlob(repo, f.Data), Size: int64(len(f.Data))}
		if d.MediaType == "" {
			d.MediaType = "application/octet-stream"
		}
		if f.Title != "" {
			d.Annotations = map[string]string{ocispec.AnnotationTitle: f.Title}
		}
		manifest.Layers = append(manifest.Layers, d)
	}
	if edit != nil {
		edit(&manifest)
	}
	img := Image{Manifest: JSON(manifest)}
	img.Digest = s.AddManifest(repo, tag, manifest.MediaType, img.Manifest)
	img.ID, img.Size = img.Digest, int64(len(img.Manifest))
	for _, l := range manifest.Layers {
		img.Size += l.Size
	}
	return img
}

// JSON encodes v.
func JSON(v any) []byte {
	data, err := json.Marshal(v)
	must(err)
	return data
}

// must panics: what it guards can only fail when a test is written wrong.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
