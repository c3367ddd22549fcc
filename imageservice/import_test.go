package imageservice

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/imageservice/imagefile"
	"github.com/berthd/berth/imageservice/registry/registrytest"
)

// TestImportBombs: an archive, and a layer in one, may not become more than the limit.
func TestImportBombs(t *testing.T) {
	b := newBench(t)
	b.limit = func(read int64) int64 { return 100_000 + 10*read }
	zeros := strings.Repeat("\x00", 10<<20)
	bomb := string(registrytest.Gzip([]byte(zeros)))
	for name, data := range map[string][]byte{ // by what the error begins with
		"import: archive:": registrytest.Gzip(registrytest.Tar("manifest.json", zeros)),
		"import docker.io/library/a:latest: layer sha256:": registrytest.Tar("layer", bomb, "config", `{"rootfs":{"diff_ids":["sha256:`+strings.Repeat("1", 64)+`"]}}`,
			"manifest.json", `[{"Config":"config","RepoTags":["a"],"Layers":["layer"]}]`),
	} {
		if images, err := b.Import(t.Context(), ImportRequest{From: bytes.NewReader(data)}); !errors.Is(err, ErrTooLarge) || !strings.HasPrefix(err.Error(), name) || !strings.Contains(err.Error(), "unpacks to more than") || len(images) > 0 {
			t.Errorf("%s: %v, %v", name, images, err)
		}
	}
	if len(b.List()) > 0 || len(b.fake.layers) > 0 {
		t.Error("something is left")
	}
}

// TestImportDocuments: the documents of an archive's images are in memory at once, so there is an end to
// all of them together.
func TestImportDocuments(t *testing.T) {
	for _, tt := range []struct {
		images int
		want   error
	}{{3, nil}, {9, ErrTooLarge}} {
		for _, form := range []string{"docker save's", "a layout"} {
			b := newBench(t)
			var files []string
			var list []map[string]any
			index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}}
			for i := range tt.images {
				config := `{"rootfs":{"diff_ids":[]},"id":` + fmt.Sprint(i) + strings.Repeat(" ", maxConfig-100) + `}`
				manifest := registrytest.JSON(ocispec.Manifest{
					Versioned: specs.Versioned{SchemaVersion: 2}, Layers: []ocispec.Descriptor{},
					Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromString(config), Size: int64(len(config))},
				})
				d := ocispec.Descriptor{Digest: digest.FromBytes(manifest), Size: int64(len(manifest)), Annotations: map[string]string{annotationImageName: fmt.Sprint("r.example/app:", i)}}
				index.Manifests = append(index.Manifests, d)
				name := imagefile.BlobName(digest.FromString(config))
				list = append(list, map[string]any{"Config": name, "RepoTags": []string{fmt.Sprint("app:", i)}, "Layers": []string{}})
				files = append(files, name, config, imagefile.BlobName(d.Digest), string(manifest))
			}
			if form == "a layout" {
				files = append(files, ocispec.ImageLayoutFile, `{"imageLayoutVersion":"1.0.0"}`, ocispec.ImageIndexFile, string(registrytest.JSON(index)))
			} else {
				files = append(files, dockerManifest, string(registrytest.JSON(list)))
			}
			images, err := b.Import(t.Context(), ImportRequest{From: bytes.NewReader(registrytest.Tar(files...))})
			if !errors.Is(err, tt.want) || tt.want == nil && len(images) != tt.images || tt.want != nil && len(b.List()) > 0 {
				t.Errorf("%s of %d: %d images, %v", form, tt.images, len(images), err)
			}
		}
	}
}
