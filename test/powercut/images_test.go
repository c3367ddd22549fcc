package powercut

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/imageservice/registry/registrytest"
	"github.com/berthd/berth/test/node"
)

// host is the name of the registry with our images.
const host = "power.test"

// An image is one whose every byte is known.
type image struct {
	ref  string
	id   string
	tree map[string]*entry
	// layers are the diff IDs by the digests of the blobs.
	layers map[digest.Digest]digest.Digest
}

// serve makes the images, which share layers in several ways, and leads to them in the
// world's certs.d.
func serve(t *testing.T, w *node.World) (*registrytest.Server, []image) {
	t.Helper()
	s := registrytest.New()
	t.Cleanup(s.Close)
	if err := node.Lead(w.Certs, host, s.URL); err != nil {
		t.Fatal(err)
	}
	base := layer{plain("pause", 0o755, pause(t, w))}
	few, many, some, big, wipe := few(), many(), large("some", 1_500_000, 3_000_000), large("big", 20_000_000), wipe()
	packed := map[*file]registrytest.Layer{} // each layer is packed once
	var out []image
	for i, layers := range [][]layer{
		{base, few, tiny("a")},
		{base, some, big},
		{base, few, some, wipe},
		{base, tiny("d")},
		{base, many, few},
		{some, base, tiny("f")},
	} {
		img := image{ref: fmt.Sprintf("%s/i%d:latest", host, i), tree: tree(layers...), layers: map[digest.Digest]digest.Digest{}}
		var served []registrytest.Layer
		for _, l := range layers {
			if _, ok := packed[&l[0]]; !ok {
				packed[&l[0]] = pack(len(packed), l.tarball(t))
			}
			p := packed[&l[0]]
			img.layers[digest.FromBytes(p.Blob)] = digest.FromBytes(p.Tar)
			served = append(served, p)
		}
		img.id = s.AddImage(fmt.Sprint("i", i), "latest", served, func(c *ocispec.Image, _ *ocispec.Manifest) {
			c.Config.Entrypoint = []string{"/pause"}
		}).ID.String()
		out = append(out, img)
	}
	return s, out
}

// pack compresses an archive in one of the three ways.
func pack(n int, archive []byte) registrytest.Layer {
	switch n % 3 {
	case 0:
		return registrytest.GzipLayer(archive)
	case 1:
		return registrytest.Layer{Tar: archive, Blob: registrytest.Zstd(archive), MediaType: ocispec.MediaTypeImageLayerZstd}
	}
	return registrytest.Layer{Tar: archive, Blob: archive, MediaType: ocispec.MediaTypeImageLayer}
}

// pause is the program of that name of the world's images.
func pause(t *testing.T, w *node.World) []byte {
	t.Helper()
	var m ocispec.Manifest
	if err := json.Unmarshal(get(t, w, "manifests/3.10", "application/vnd.oci.image.manifest.v1+json"), &m); err != nil || len(m.Layers) != 1 {
		t.Fatalf("the image of pause: %v, %v", m, err)
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(get(t, w, "blobs/"+m.Layers[0].Digest.String(), "")))
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(unzipped); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatal("no pause: ", err)
		}
		if h.Name == "pause" {
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
	}
}

func get(t *testing.T, w *node.World, what, accept string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+w.Registry.Addr+"/v2/pause/"+what, nil)
	if err != nil {
		t.Fatal(err)
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", what, resp.Status, err)
	}
	return data
}
