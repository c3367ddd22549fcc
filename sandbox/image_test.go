package sandbox

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/imageservice"
)

func TestImageRef(t *testing.T) {
	const one, two = "docker.io/library/web@sha256:1", "quay.io/a/web@sha256:2"
	id := digest.FromString("x")
	img := imageservice.Image{ID: id, Digests: []string{one, two}}
	for asked, want := range map[string]string{
		"web": one, "quay.io/a/web:v1": two, "web:latest": one, "example.org/other": one, "": one, id.String(): one,
	} {
		if got := imageRef(img, asked); got != want {
			t.Errorf("asked for %q: %s, want %s", asked, got, want)
		}
	}
	if got := imageRef(imageservice.Image{ID: id}, "web"); got != id.String() {
		t.Errorf("without digests: %s", got)
	}
}

// TestArtifactIsNoImage: nothing can be run from an artifact, and nothing is left of the attempt.
func TestArtifactIsNoImage(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	defer n.Close()
	p, err := n.Pods.Run(t.Context(), podSpec("p", false))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Containers.Create(t.Context(), p.ID, containerSpec("c", "artifact")); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "image volume") {
		t.Errorf("Create: %v", err)
	}
	if err := n.Pods.Remove(t.Context(), p.ID); err != nil {
		t.Error(err)
	}
	assertNothing(t, f, dir)
}
