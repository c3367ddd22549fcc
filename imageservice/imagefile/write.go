package imagefile

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// BlobName is where an OCI image layout has a blob.
func BlobName(d digest.Digest) string {
	return ocispec.ImageBlobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

// A Writer writes an archive. The same files give the same bytes, whenever and wherever.
type Writer struct {
	tar     *tar.Writer
	written map[string]bool
}

// NewWriter writes to w. Call Close for the archive's end.
func NewWriter(w io.Writer) *Writer {
	return &Writer{tar: tar.NewWriter(w), written: map[string]bool{}}
}

// Add writes a file of size bytes, unless there is one of that name.
func (w *Writer) Add(name string, size int64, r io.Reader) error {
	if w.written[name] {
		return nil
	}
	w.written[name] = true
	hdr := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)}
	if err := w.tar.WriteHeader(hdr); err != nil {
		return err
	}
	if _, err := io.CopyN(w.tar, r, size); err != nil {
		return err
	}
	return w.tar.Flush()
}

// AddLayout writes the two files that make the blobs an OCI image layout.
func (w *Writer) AddLayout(images []ocispec.Descriptor) error {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: images}
	if err := w.AddJSON(ocispec.ImageIndexFile, index); err != nil {
		return err
	}
	return w.AddJSON(ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
}

// AddJSON writes v.
func (w *Writer) AddJSON(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.AddBytes(name, data)
}

// AddBytes writes data.
func (w *Writer) AddBytes(name string, data []byte) error {
	return w.Add(name, int64(len(data)), bytes.NewReader(data))
}

// Close ends the archive; not what it is written to.
func (w *Writer) Close() error { return w.tar.Close() }
