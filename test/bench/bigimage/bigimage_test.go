package bigimage

import (
	"archive/tar"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestBuild reads a small image of both packings as a runtime does.
func TestBuild(t *testing.T) {
	repo, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	l, err := Build(t.Context(), repo, cache, Small())
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Build(t.Context(), "/nowhere", cache, Small()); err != nil || again.Dir != l.Dir {
		t.Errorf("the second time: %v, %v", again, err)
	}
	if left, err := filepath.Glob(filepath.Join(cache, "new-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	var index ocispec.Index
	read(t, filepath.Join(l.Dir, "index.json"), &index)
	if len(index.Manifests) != 2 || len(l.Images) != 2 {
		t.Fatalf("index: %+v, images: %+v", index, l.Images)
	}
	contents := map[string]map[string]string{}
	for i, m := range index.Manifests {
		packing := m.Annotations[ocispec.AnnotationRefName]
		if packing != l.Images[i].Packing {
			t.Errorf("manifest %d is %q, note says %q", i, packing, l.Images[i].Packing)
		}
		contents[packing] = unpack(t, l, m.Digest)
		files, bytes := 0, 0
		for name, text := range contents[packing] {
			if !strings.HasSuffix(name, "/") {
				files, bytes = files+1, bytes+len(text)
			}
		}
		if spec := Small(); bytes < int(spec.Bytes)*2/3 || bytes > int(spec.Bytes)*3/2 || files < spec.Files*2/3 || files > spec.Files*3/2 {
			t.Errorf("%s: %d bytes in %d files, want about %d in %d", packing, bytes, files, spec.Bytes, spec.Files)
		}
		if files != l.Images[i].Files {
			t.Errorf("%s: %d files, note says %d", packing, files, l.Images[i].Files)
		}
	}
	if !maps.Equal(contents["gzip"], contents["zstd"]) {
		t.Error("the packings differ in what is in them")
	}
	if contents["gzip"]["pause"] == "" {
		t.Error("no program in the image")
	}
}

// unpack checks the digests of an image and returns its files' contents by name.
func unpack(t *testing.T, l Layout, d digest.Digest) map[string]string {
	t.Helper()
	var m ocispec.Manifest
	var c ocispec.Image
	read(t, l.Blob(d), &m)
	read(t, l.Blob(m.Config.Digest), &c)
	if len(m.Layers) != len(Small().Shares) || len(c.RootFS.DiffIDs) != len(m.Layers) {
		t.Fatalf("%d layers, %d diff IDs", len(m.Layers), len(c.RootFS.DiffIDs))
	}
	files := map[string]string{}
	for i, desc := range m.Layers {
		f, err := os.Open(l.Blob(desc.Digest))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		blob, diff := digest.SHA256.Digester(), digest.SHA256.Digester()
		in := io.TeeReader(f, blob.Hash())
		var archive io.Reader
		if desc.MediaType == ocispec.MediaTypeImageLayerZstd {
			z, err := zstd.NewReader(in)
			if err != nil {
				t.Fatal(err)
			}
			defer z.Close()
			archive = z
		} else if archive, err = gzip.NewReader(in); err != nil {
			t.Fatal(err)
		}
		archive = io.TeeReader(archive, diff.Hash())
		for r := tar.NewReader(archive); ; {
			h, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if h.Typeflag == tar.TypeReg {
				if _, twice := files[h.Name]; twice {
					t.Errorf("%s is there twice", h.Name)
				}
			}
			text, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			files[h.Name] = string(text)
		}
		if _, err := io.Copy(io.Discard, archive); err != nil {
			t.Fatal(err)
		}
		if diff.Digest() != c.RootFS.DiffIDs[i] || blob.Digest() != desc.Digest {
			t.Errorf("layer %d: diff ID %s, digest %s", i, diff.Digest(), blob.Digest())
		}
	}
	return files
}

func read(t *testing.T, path string, v any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatal(err)
	}
}

// TestChoose wants the same choice each time, and repeats with another content
// where the folders hold too little.
func TestChoose(t *testing.T) {
	dir := t.TempDir()
	for name, size := range map[string]int{"a": 100, "b": 200, "c/d": 300, "c/e": 100_000, "f": 150_000} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	names := func(folders []string, size int64, count int) (all []string, total int64) {
		files, err := choose(folders, size, count)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			all, total = append(all, filepath.Base(f.name)), total+f.size
		}
		return all, total
	}
	if got, _ := names([]string{dir, filepath.Join(dir, "c")}, 251_000, 3); !slices.Equal(got, []string{"a", "b", "d", "e", "f"}) {
		t.Errorf("all of them: %v", got)
	}
	got, total := names([]string{dir}, 1_000_000, 13)
	again, _ := names([]string{dir}, 1_000_000, 13)
	if !slices.Equal(got, again) {
		t.Errorf("%v, then %v", got, again)
	}
	if total < 900_000 || total > 1_100_000 || len(got) < 15 {
		t.Errorf("repeated: %d bytes in %d files", total, len(got))
	}
}
