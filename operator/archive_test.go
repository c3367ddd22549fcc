package operator

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/imageservice/registry/registrytest"
	"github.com/berthd/berth/operator/api"
)

func (b *bench) export(t *testing.T, req *api.ExportRequest) ([]byte, error) {
	t.Helper()
	stream, err := b.Export(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out = append(out, resp.GetData()...)
	}
}

func (b *bench) importAs(t *testing.T, name string, data []byte) ([]*api.Image, error) {
	t.Helper()
	stream, err := b.Import(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&api.ImportRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
	for part := range slices.Chunk(data, 1000) {
		if err := stream.Send(&api.ImportRequest{Data: part}); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	resp, err := stream.CloseAndRecv()
	return resp.GetImages(), err
}

func (b *bench) clear(t *testing.T) {
	t.Helper()
	if _, err := b.Remove(t.Context(), &api.RemoveRequest{Unused: true}); err != nil {
		t.Fatal(err)
	}
	b.empty(t)
}

// empty expects no trace of any image.
func (b *bench) empty(t *testing.T) {
	t.Helper()
	layers, err := b.layers.ListLayers(t.Context())
	if err != nil || len(layers) != 0 || len(b.images.List()) != 0 || len(b.images.Progress()) != 0 {
		t.Errorf("left: layers %v, images %v, %v", layers, b.images.List(), err)
	}
	err = filepath.WalkDir(filepath.Join(b.root, "images"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && e.Name() != "index.json" {
			t.Error("left:", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestRoundTrip: an image that is exported and imported is the same image.
func TestRoundTrip(t *testing.T) {
	b := openBench(t, "erofs")
	one, two := b.add("one", strings.Repeat("big", 100_000), "b"), b.add("two", "b", "c")
	for _, form := range []*api.ExportRequest{{}, {Format: "oci", Compress: "gzip"}, {Compress: "zstd"}, {Format: "docker"}} {
		t.Run(form.Format+form.Compress, func(t *testing.T) {
			ids := []string{b.mustPull(t, one).Id, b.mustPull(t, two).Id}
			form.Images = []string{one, ids[1], one}
			data, err := b.export(t, form)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := b.export(t, form); err != nil || !bytes.Equal(data, again) {
				t.Errorf("the second export differs, %v", err)
			}
			names := membersOf(t, data)
			if n := len(names); form.Format != "docker" && n != 3+2+2+2 || form.Format == "docker" && n != 3+2+1 { // b is in both
				t.Errorf("%d files: %v", n, names)
			}
			b.clear(t)
			for _, data := range [][]byte{data, registrytest.Gzip(data), registrytest.Zstd(data)} {
				images, err := b.importAs(t, "", data)
				if err != nil || len(images) != 2 {
					t.Fatal(images, err)
				}
				for i, name := range []string{one, two} {
					if images[i].Id != ids[i] || !slices.Equal(images[i].Tags, []string{name}) {
						t.Errorf("%s: %v", name, images[i])
					}
				}
				for _, v := range b.verify(t) {
					if v.Verdict != api.Verdict_SOUND {
						t.Error(v)
					}
				}
				b.clear(t)
			}
		})
	}
}

// TestExportKeepsTheManifest: where the blobs are the archives themselves, so is the manifest.
func TestExportKeepsTheManifest(t *testing.T) {
	b := openBench(t, "erofs")
	img := b.reg.AddImage("plain", "1", []registrytest.Layer{{Tar: registrytest.Tar("f", "x")}}, nil)
	name := b.reg.Host() + "/plain:1"
	b.mustPull(t, name)
	data, err := b.export(t, &api.ExportRequest{Images: []string{name}})
	if err != nil || !slices.Contains(membersOf(t, data), "blobs/sha256/"+img.Digest.Encoded()) {
		t.Errorf("%v: %v", membersOf(t, data), err)
	}
	for _, bad := range []*api.ExportRequest{
		{}, {Images: []string{name}, Format: "zip"}, {Images: []string{name}, Compress: "xz"}, {Images: []string{name}, Format: "docker", Compress: "gzip"},
		{Images: []string{name, "nothing:1"}},
	} {
		if data, err := b.export(t, bad); err == nil || len(data) > 0 {
			t.Errorf("%v: %d bytes, %v", bad, len(data), err)
		}
	}
}

// TestExportFolders: layers that are folders cannot be made archives again.
func TestExportFolders(t *testing.T) {
	b := newBench(t)
	name := b.add("one", "a")
	b.mustPull(t, name)
	if data, err := b.export(t, &api.ExportRequest{Images: []string{name}}); err == nil || len(data) != 0 || !strings.Contains(err.Error(), "not supported") {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

func membersOf(t *testing.T, data []byte) (names []string) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(data))
	for {
		hdr, err := r.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, hdr.Name)
	}
}

// A file is a member of an archive to be made.
type file struct {
	name, content, link string
	kind                byte
}

func pack(t *testing.T, files ...file) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		hdr := &tar.Header{Typeflag: f.kind, Name: f.name, Size: int64(len(f.content)), Linkname: f.link, Mode: 0o644}
		if f.kind == 0 {
			hdr.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func encode(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// configOf is a configuration with those layers.
func configOf(t *testing.T, layers ...string) string {
	t.Helper()
	c := ocispec.Image{Platform: ocispec.Platform{OS: "linux"}}
	c.RootFS.Type = "layers"
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromString(l))
	}
	return encode(t, c)
}

func layer(name string) string { return string(registrytest.Tar(name, name)) }

func blob(content string) file {
	return file{name: "blobs/sha256/" + digest.FromString(content).Encoded(), content: content}
}

func descriptor(mediaType, content, name string) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(content), Size: int64(len(content))}
	if name != "" {
		d.Annotations = map[string]string{"org.opencontainers.image.ref.name": name}
	}
	return d
}

var layoutFile = file{name: "oci-layout", content: `{"imageLayoutVersion":"1.0.0"}`}

// layout is the files of an image layout with an image of each layer, by their names.
func layout(t *testing.T, images map[string]string) (files []file) {
	t.Helper()
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}}
	for _, name := range slices.Sorted(maps.Keys(images)) {
		content := images[name]
		config := configOf(t, content)
		manifest := encode(t, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: descriptor(ocispec.MediaTypeImageConfig, config, ""),
			Layers: []ocispec.Descriptor{descriptor(ocispec.MediaTypeImageLayer, content, "")},
		})
		index.Manifests = append(index.Manifests, descriptor(ocispec.MediaTypeImageManifest, manifest, name))
		files = append(files, blob(content), blob(config), blob(manifest))
	}
	return append(files, layoutFile, file{name: "index.json", content: encode(t, index)})
}

// dockerArchive is the files of what docker save writes, its list last.
func dockerArchive(t *testing.T, tags ...string) []file {
	t.Helper()
	a, c := layer("a"), layer("c")
	config := configOf(t, a, c, a)
	list := []map[string]any{{"Config": digest.FromString(config).Encoded() + ".json", "RepoTags": tags, "Layers": []string{"1/layer.tar", "2/layer.tar", "3/layer.tar"}}}
	return []file{
		{name: "1/", kind: tar.TypeDir}, {name: "1/layer.tar", content: a}, {name: "1/json", content: "{}"}, {name: "2/layer.tar", content: string(registrytest.Gzip([]byte(c)))},
		{name: "3/layer.tar", kind: tar.TypeSymlink, link: "../1/layer.tar"},
		{name: digest.FromString(config).Encoded() + ".json", content: config}, {name: "manifest.json", content: encode(t, list)},
	}
}

func TestImportDocker(t *testing.T) {
	b := newBench(t)
	id := digest.FromString(configOf(t, layer("a"), layer("c"), layer("a"))).String()
	images, err := b.importAs(t, "", pack(t, dockerArchive(t, "app:1", "app:2")...))
	if err != nil || len(images) != 1 || images[0].Id != id || !slices.Equal(images[0].Tags, []string{"docker.io/library/app:1", "docker.io/library/app:2"}) {
		t.Fatal(images, err)
	}
	if layers, err := b.layers.ListLayers(t.Context()); err != nil || len(layers) != 2 {
		t.Error(layers, err)
	}
	// What is here already gets names, and keeps its own.
	if images, err = b.importAs(t, "r.example/other", pack(t, dockerArchive(t, "app:1")...)); err != nil || len(images[0].Tags) != 3 || len(images[0].Digests) != 1 {
		t.Errorf("%v, %v", images, err)
	}
	b.clear(t)
	if images, err = b.importAs(t, "r.example/other", pack(t, dockerArchive(t, "app:1")...)); err != nil || !slices.Equal(images[0].Tags, []string{"r.example/other:latest"}) {
		t.Errorf("%v, %v", images, err)
	}
}

func TestImportLayout(t *testing.T) {
	b := newBench(t)
	files := layout(t, map[string]string{"one:1": layer("a"), "r.example/two:2": layer("b")})
	images, err := b.importAs(t, "", pack(t, files...))
	if err != nil || len(images) != 2 || images[0].Tags[0] != "docker.io/library/one:1" || images[1].Tags[0] != "r.example/two:2" {
		t.Fatal(images, err)
	}
	// A layer that is here need not be in the archive.
	b.mustRemove(t, images[1].Id)
	if images, err = b.importAs(t, "", pack(t, files[1:]...)); err != nil || len(images) != 2 {
		t.Error(images, err)
	}
	b.clear(t)
	if images, err = b.importAs(t, "own:3", pack(t, layout(t, map[string]string{"latest": layer("a")})...)); err != nil || images[0].Tags[0] != "docker.io/library/own:3" {
		t.Error(images, err)
	}
}

func (b *bench) mustRemove(t *testing.T, id string) {
	t.Helper()
	if _, err := b.Remove(t.Context(), &api.RemoveRequest{Images: []string{id}}); err != nil {
		t.Fatal(err)
	}
}
