package imageservice

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/imageservice/registry"
	"github.com/berthd/berth/imageservice/registry/registrytest"
	"github.com/berthd/berth/snapshot"
)

// someFiles are an artifact's: one in a folder, one that is an archive, one without a title, an empty one.
func someFiles() []registrytest.File {
	return []registrytest.File{
		{Title: "weights/part-1.bin", Data: bytes.Repeat([]byte("w"), 3<<20)},
		{Title: "data.tar.gz", Data: registrytest.Gzip(registrytest.Tar("a", "b")), MediaType: ocispec.MediaTypeImageLayerGzip},
		{Data: []byte("no title")},
		{Title: "empty", Data: nil},
	}
}

// TestArtifact goes through an artifact's life: what it is called, what it weighs, that a
// restart keeps it, and that nothing of it stays.
func TestArtifact(t *testing.T) {
	for name, edit := range map[string]func(*ocispec.Manifest){
		"by its type":                nil,
		"by the empty configuration": func(m *ocispec.Manifest) { m.ArtifactType = "" },
		"by a configuration of its own": func(m *ocispec.Manifest) {
			m.ArtifactType, m.Config.MediaType = "", "application/vnd.docker.ai.model.config.v0.1+json"
		},
		"by its type beside an image's configuration": func(m *ocispec.Manifest) { m.Config.MediaType = ocispec.MediaTypeImageConfig },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			want := b.reg.AddArtifact("model", "v1", "application/x-model", someFiles(), edit)
			got := b.pull(t, "model:v1")
			files := []string{"weights/part-1.bin", "data.tar.gz", "sha256-" + digest.FromString("no title").Encoded(), "empty"}
			if got.ID != want.Digest || got.Size != want.Size || !reflect.DeepEqual(got.Files, files) || !got.IsArtifact() || len(got.DiffIDs) != 4 {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
			if !reflect.DeepEqual(got.Tags, []string{b.name("model:v1")}) || !reflect.DeepEqual(got.Digests, []string{b.name("model@" + want.Digest.String())}) {
				t.Errorf("tags %q, digests %q", got.Tags, got.Digests)
			}
			if n := len(b.reg.Requests("/blobs/" + ocispec.DescriptorEmptyJSON.Digest.String())); n != 0 {
				t.Errorf("the configuration was fetched %d times", n)
			}
			b.reg.Forget()
			if again := b.pull(t, "model:v1"); !reflect.DeepEqual(again, got) || len(b.reg.Requests()) != 1 {
				t.Errorf("again, with %d requests: %+v", len(b.reg.Requests()), again)
			}
			b.reopen(t, Options{})
			for _, ref := range []string{got.ID.String(), b.name("model:v1"), got.ID.Encoded()[:12]} {
				if after, err := b.Get(ref); err != nil || !reflect.DeepEqual(after, got) {
					t.Errorf("%s after a restart: %+v, %v", ref, after, err)
				}
			}
			if err := b.Remove(t.Context(), got.ID.String()); err != nil {
				t.Fatal(err)
			}
			left, err := os.ReadDir(filepath.Join(b.root, "manifests", "sha256"))
			if layers, seals, _ := b.fake.count(); layers != 0 || seals != 0 || err != nil || len(left) != 0 || len(b.List()) != 0 {
				t.Errorf("%d layers, %d seals and %v stay, %v", layers, seals, left, err)
			}
		})
	}
}

// TestDamagedArtifact: a manifest that is not what it was is dropped at the next start, with
// its layers and their seal, and can be pulled again.
func TestDamagedArtifact(t *testing.T) {
	b := newBench(t)
	b.reg.AddArtifact("model", "v1", "application/x-model", someFiles(), nil)
	img := b.pull(t, "model:v1")
	if err := os.WriteFile(filepath.Join(b.root, "manifests", "sha256", img.ID.Encoded()), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.reopen(t, Options{})
	b.later()
	if err := b.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if layers, seals, _ := b.fake.count(); layers != 0 || seals != 0 || len(b.List()) != 0 {
		t.Errorf("%v is listed, %d layers and %d seals stay", b.List(), layers, seals)
	}
	if again := b.pull(t, "model:v1"); !reflect.DeepEqual(again, img) {
		t.Errorf("again: %+v", again)
	}
}

// TestArtifactInIndex: an index leads to an artifact as to an image.
func TestArtifactInIndex(t *testing.T) {
	b := newBench(t)
	other := b.reg.AddArtifact("model", "", "application/x-model", []registrytest.File{{Title: "other", Data: []byte("o")}}, nil)
	ours := b.reg.AddArtifact("model", "", "application/x-model", []registrytest.File{{Title: "ours", Data: []byte("o")}}, nil)
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{
		{MediaType: ocispec.MediaTypeImageManifest, Digest: other.Digest, Size: int64(len(other.Manifest)), Platform: &ocispec.Platform{OS: "linux", Architecture: "s390x"}},
		{MediaType: ocispec.MediaTypeImageManifest, Digest: ours.Digest, Size: int64(len(ours.Manifest)), Platform: &ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}},
	}}
	index.SchemaVersion = 2
	b.reg.AddManifest("model", "v1", index.MediaType, registrytest.JSON(index))
	if img := b.pull(t, "model:v1"); img.ID != ours.Digest || !reflect.DeepEqual(img.Files, []string{"ours"}) {
		t.Errorf("got %+v", img)
	}
}

// TestBadArtifacts has one thing wrong at a time. Nothing of it may stay, and the same
// name must work once it is right.
func TestBadArtifacts(t *testing.T) {
	two := func(a, b string) []registrytest.File {
		return []registrytest.File{{Title: a, Data: []byte("1")}, {Title: b, Data: []byte("2")}}
	}
	many := make([]registrytest.File, maxLayers+1)
	for i := range many {
		many[i] = registrytest.File{Title: fmt.Sprint(i), Data: []byte("x")}
	}
	for name, tt := range map[string]struct {
		files []registrytest.File
		edit  func(*registrytest.Server, *ocispec.Manifest)
		want  error
	}{
		"two files of a name":      {two("a", "a"), nil, ErrCorrupt},
		"a file and a folder":      {two("a/b", "a"), nil, ErrCorrupt},
		"a folder below a file":    {two("a", "a/b/c"), nil, ErrCorrupt},
		"a title that is a digest": {two("sha256-"+digest.FromString("2").Encoded(), ""), nil, ErrCorrupt},
		"the same blob twice":      {[]registrytest.File{{Data: []byte("1")}, {Data: []byte("1")}}, nil, ErrCorrupt},
		"too many files":           {many, nil, ErrTooLarge},
		"too many bytes":           {two("a", "b"), func(_ *registrytest.Server, m *ocispec.Manifest) { m.Layers[1].Size = maxArtifact }, ErrTooLarge},
		"other bytes":              {two("a", "b"), func(s *registrytest.Server, m *ocispec.Manifest) { s.PutBlob(m.Layers[0].Digest, []byte("x")) }, ErrCorrupt},
		"a size too large":         {two("a", "b"), func(_ *registrytest.Server, m *ocispec.Manifest) { m.Layers[0].Size++ }, ErrCorrupt},
		"a negative size":          {two("a", "b"), func(_ *registrytest.Server, m *ocispec.Manifest) { m.Layers[0].Size = -1 }, ErrCorrupt},
		"a digest that is a path":  {two("a", "b"), func(_ *registrytest.Server, m *ocispec.Manifest) { m.Layers[0].Digest = "sha256:../../etc/passwd" }, ErrCorrupt},
		"a blob that is not there": {two("a", "b"), func(_ *registrytest.Server, m *ocispec.Manifest) { m.Layers[0].Digest = digest.FromString("none") }, ErrNotFound},
		"of nothing":               {two("a", "b"), func(_ *registrytest.Server, m *ocispec.Manifest) { m.ArtifactType, m.Config.MediaType = "", "" }, ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.reg.AddArtifact("model", "v1", "application/x-model", tt.files, func(m *ocispec.Manifest) {
				if tt.edit != nil {
					tt.edit(b.reg, m)
				}
			})
			if _, err := b.Pull(t.Context(), PullRequest{Image: b.name("model:v1")}); !errors.Is(err, tt.want) || errors.Is(err, ErrUnavailable) {
				t.Errorf("Pull: %v; want %v", err, tt.want)
			}
			b.reg.AddArtifact("model", "v1", "application/x-model", two("a", "b"), nil)
			b.pull(t, "model:v1")
			if err := b.Remove(t.Context(), b.name("model:v1")); err != nil {
				t.Fatal(err)
			}
			if layers, seals, _ := b.fake.count(); layers != 0 || seals != 0 || len(b.List()) != 0 {
				t.Errorf("%d layers and %d seals stay", layers, seals)
			}
		})
	}
}

// TestTwoFaces: a document that is an image's configuration and an artifact's manifest would
// have one ID for both.
func TestTwoFaces(t *testing.T) {
	for _, artifactFirst := range []bool{true, false} {
		b := newBench(t)
		doc := fmt.Appendf(nil, `{"schemaVersion":2,"artifactType":"application/x-model","config":{"mediaType":%q,"digest":%q,"size":2},"layers":[],"os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`,
			ocispec.MediaTypeEmptyJSON, ocispec.DescriptorEmptyJSON.Digest)
		b.reg.AddManifest("app", "artifact", ocispec.MediaTypeImageManifest, doc)
		b.reg.AddImage("app", "image", nil, func(_ *ocispec.Image, m *ocispec.Manifest) {
			m.Config.Digest, m.Config.Size = b.reg.AddBlob(doc), int64(len(doc))
		})
		names := []string{"app:artifact", "app:image"}
		if !artifactFirst {
			slices.Reverse(names)
		}
		first := b.pull(t, names[0])
		if _, err := b.Pull(t.Context(), PullRequest{Image: b.name(names[1])}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s after %s: %v", names[1], names[0], err)
		}
		if got, err := b.Get(first.ID.String()); err != nil || !reflect.DeepEqual(got, first) {
			t.Errorf("the first is now %+v, %v", got, err)
		}
	}
}

func TestFileNames(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "a/b/c.bin": true, "übung.txt": true, "a b": true, ".hidden": true, "..a": true, "a..": true, "-rf": true, strings.Repeat("n", 255): true,
		strings.Repeat(strings.Repeat("n", 200)+"/", 4) + "x": true,
		"": false, "/a": false, "a/": false, "a//b": false, ".": false, "./a": false, "..": false, "a/../b": false, "../a": false,
		".wh.a": false, "a/.wh..wh..opq": false, "a\x00b": false, "a\nb": false, "\x1b[2J": false, "a\xff": false, strings.Repeat("n", 256): false, strings.Repeat("n/", 513): false,
	} {
		if got := isFileName(name); got != want {
			t.Errorf("%.40q: %t", name, got)
		}
	}
}

// TestArtifactOnOverlay looks at an artifact's files on the real driver, as root.
func TestArtifactOnOverlay(t *testing.T) {
	if testing.Short() {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	driver, err := snapshot.Open(t.Context(), "overlay", filepath.Join(dir, "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	reg := registrytest.New()
	defer reg.Close()
	s, err := open(t.Context(), Options{Root: filepath.Join(dir, "images"), Layers: driver}, registry.New(quickly))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	long := strings.Repeat("long/", 100) + "name"
	files := append(someFiles(), registrytest.File{Title: "../../evil", Data: []byte("e")}, registrytest.File{Title: long, Data: make([]byte, 513)},
		registrytest.File{Title: "weights/.wh.part-1.bin", Data: []byte("h")}, registrytest.File{Title: "weights/ü-2.bin", Data: make([]byte, 1024)})
	reg.AddArtifact("model", "v1", "application/x-model", files, nil)
	img, err := s.Pull(t.Context(), PullRequest{Image: reg.Host() + "/model:v1"})
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "view")
	mounts, err := driver.View(t.Context(), "c1", img.DiffIDs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(snapshot.Unmount(root), driver.Remove(context.WithoutCancel(t.Context()), "c1")); err != nil {
			t.Error(err)
		}
	})
	if err := snapshot.MountAll(mounts, root); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		found[rel] = true
		return err
	})
	if err != nil || len(found) != len(files) {
		t.Errorf("found %v, %v", found, err)
	}
	for i, f := range files {
		path := filepath.Join(root, img.Files[i])
		data, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(data, f.Data) || !found[img.Files[i]] {
			t.Errorf("%s: %d bytes, %v", img.Files[i], len(data), err)
		}
		if info, err := os.Stat(path); err == nil && info.Mode() != 0o644 {
			t.Errorf("%s: mode %v", img.Files[i], info.Mode())
		}
	}
}
