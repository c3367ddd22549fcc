package imageservice

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/berthd/berth/imageservice/registry/registrytest"
)

// TestImportBombs: an archive, and a layer in one, may not become more than the limit.
func TestImportBombs(t *testing.T) {
	b := newBench(t)
	b.limit = func(read int64) int64 { return 100_000 + 10*read }
	zeros := strings.Repeat("\x00", 10<<20)
	bomb := string(registrytest.Gzip([]byte(zeros)))
	for name, data := range map[string][]byte{
		"the archive": registrytest.Gzip(registrytest.Tar("manifest.json", zeros)),
		"a layer": registrytest.Tar("layer", bomb, "config", `{"rootfs":{"diff_ids":["sha256:`+strings.Repeat("1", 64)+`"]}}`,
			"manifest.json", `[{"Config":"config","RepoTags":["a"],"Layers":["layer"]}]`),
	} {
		if images, err := b.Import(t.Context(), ImportRequest{From: bytes.NewReader(data)}); !errors.Is(err, ErrTooLarge) || len(images) > 0 {
			t.Errorf("%s: %v, %v", name, images, err)
		}
	}
	if len(b.List()) > 0 || len(b.fake.layers) > 0 {
		t.Error("something is left")
	}
}
