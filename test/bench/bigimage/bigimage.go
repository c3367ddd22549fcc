package bigimage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Spec says how large an image is.
type Spec struct {
	Bytes  int64   // of all files
	Files  int     // how many
	Dense  int     // percent of the bytes that no compression makes smaller
	Shares []int64 // a layer for each, with that share of the bytes
}

// Big is the image of the benchmark: about 450 MB compressed.
func Big() Spec {
	return Spec{Bytes: 1_000_000_000, Files: 25_000, Dense: 13, Shares: []int64{20, 46, 14, 10, 6, 4}}
}

// Small has the same form as Big, for tests: a few MB.
func Small() Spec {
	return Spec{Bytes: 8_000_000, Files: 200, Dense: 13, Shares: []int64{20, 46, 14, 10, 6, 4}}
}

// version changes when what Build makes of a Spec changes.
const version = "1"

// Packings are the tags of the image, one for each compression.
func Packings() []string { return []string{"gzip", "zstd"} }

// Program is what containers of the image can run: it waits for SIGTERM.
const Program = "/pause"

// An Image is what Build made of one packing.
type Image struct {
	Packing    string
	Compressed int64   // bytes of all layers' blobs
	Layers     []int64 // bytes of each, likewise
	Bytes      int64   // of all archives
	Files      int
}

// A Layout is a folder with an OCI image layout. Its index names one manifest for each packing.
type Layout struct {
	Dir    string
	Images []Image
}

// Build makes the image of spec unless cache has it. repo is the repository's
// root, from which Program is built.
func Build(ctx context.Context, repo, cache string, spec Spec) (Layout, error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return Layout{}, err
	}
	key := sha256.Sum256([]byte(version + runtime.GOARCH + string(text)))
	dir := filepath.Join(cache, "bench-"+hex.EncodeToString(key[:8]))
	if l, err := open(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return l, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Layout{}, err
	}
	tmp, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return Layout{}, err
	}
	defer os.RemoveAll(tmp)
	made := filepath.Join(tmp, "layout")
	if err := os.MkdirAll(filepath.Join(made, "blobs", "sha256"), 0o755); err != nil {
		return Layout{}, err
	}
	program := filepath.Join(tmp, "pause")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", program, "./test/images/pause")
	cmd.Dir, cmd.Env = repo, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return Layout{}, fmt.Errorf("build %s: %w: %s", Program, err, out)
	}
	if err := fill(ctx, made, program, spec); err != nil {
		return Layout{}, fmt.Errorf("the benchmark's image: %w", err)
	}
	if err := os.Rename(made, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return Layout{}, err
	}
	return open(dir)
}

// notes is the file in a layout with what Build says of it.
const notes = "images.json"

func open(dir string) (Layout, error) {
	l := Layout{Dir: dir}
	err := readJSON(filepath.Join(dir, notes), &l.Images)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w; remove the folder, and it is made again", err)
	}
	return l, err
}

// fill writes the layout of spec into dir.
func fill(ctx context.Context, dir, program string, spec Spec) error {
	dense := spec.Bytes * int64(spec.Dense) / 100
	files, err := choose(tops(), spec.Bytes-dense, spec.Files)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("no files in %v", tops())
	}
	layers := cut(files, spec.Shares)
	images := map[string]*building{}
	for _, p := range Packings() {
		images[p] = &building{note: Image{Packing: p}}
	}
	for i, list := range layers {
		a := archive{files: list, dense: dense * spec.Shares[i] / sum(spec.Shares), seed: byte(i)}
		if i == 0 {
			a.program = program
		}
		made, err := a.write(ctx, filepath.Join(dir, "blobs", "sha256"))
		if err != nil {
			return err
		}
		for p, l := range made {
			images[p].add(l)
		}
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	var said []Image
	for _, p := range Packings() {
		d, err := images[p].finish(dir)
		if err != nil {
			return err
		}
		d.Annotations = map[string]string{ocispec.AnnotationRefName: p}
		index.Manifests = append(index.Manifests, d)
		said = append(said, images[p].note)
	}
	for name, v := range map[string]any{
		ocispec.ImageIndexFile: index, ocispec.ImageLayoutFile: ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}, notes: said,
	} {
		data, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func sum(list []int64) (n int64) {
	for _, v := range list {
		n += v
	}
	return n
}

// A building is an image whose layers are being made.
type building struct {
	note    Image
	layers  []ocispec.Descriptor
	diffIDs []digest.Digest
}

func (b *building) add(l packed) {
	b.layers = append(b.layers, l.desc)
	b.diffIDs = append(b.diffIDs, l.diffID)
	b.note.Layers = append(b.note.Layers, l.desc.Size)
	b.note.Compressed += l.desc.Size
	b.note.Bytes += l.size
	b.note.Files += l.files
}

// finish writes configuration and manifest and returns the manifest's descriptor.
func (b *building) finish(dir string) (ocispec.Descriptor, error) {
	created := epoch()
	config := ocispec.Image{
		Created: &created, Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config: ocispec.ImageConfig{Entrypoint: []string{Program}}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: b.diffIDs},
	}
	c, err := writeJSON(dir, ocispec.MediaTypeImageConfig, config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return writeJSON(dir, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: c, Layers: b.layers,
	})
}

func writeJSON(dir, media string, v any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: media, Digest: digest.FromBytes(data), Size: int64(len(data))}
	return d, os.WriteFile(filepath.Join(dir, "blobs", "sha256", d.Digest.Encoded()), data, 0o644)
}

// epoch is the modification time of what is in no file of the machine.
func epoch() time.Time { return time.Unix(1767225600, 0).UTC() }
