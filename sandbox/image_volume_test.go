package sandbox

import (
	"errors"
	"os"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/sandbox/spec"
)

// TestImageVolumeRefused: kubelet looks at the first bytes of the message, and nothing
// may be left.
func TestImageVolumeRefused(t *testing.T) {
	for _, tt := range []struct {
		name  string
		mount *runtimeapi.Mount
		want  error
	}{
		{"image not on the node", &runtimeapi.Mount{ContainerPath: "/v", Image: &runtimeapi.ImageSpec{Image: "missing"}}, imageservice.ErrNotFound},
		{"no such sub path", &runtimeapi.Mount{ContainerPath: "/v", Image: &runtimeapi.ImageSpec{Image: "volume"}, ImageSubPath: "none"}, ErrInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, dir := newFakeNode(t), t.TempDir()
			n := f.open(t, dir)
			defer n.Close()
			p, err := n.Pods.Run(t.Context(), podSpec("p", false))
			if err != nil {
				t.Fatal(err)
			}
			c := containerSpec("c", "image")
			c.Config.Mounts = append(c.Config.Mounts, tt.mount)
			_, err = n.Containers.Create(t.Context(), p.ID, c)
			if !errors.Is(err, tt.want) || !errors.Is(err, ErrImageVolume) || !strings.HasPrefix(err.Error(), "ImageVolumeMountFailed: ") {
				t.Errorf("%v, want %v after the prefix", err, tt.want)
			}
			if err := n.Pods.Remove(t.Context(), p.ID); err != nil {
				t.Error(err)
			}
			assertNothing(t, f, dir)
		})
	}
}

// TestImageVolumesAreSwept removes the record of a container with an image volume, as
// a power cut may: the next start unmounts it.
func TestImageVolumesAreSwept(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	podID, id := full(t, n, "p", false)
	n.Close()
	if err := os.RemoveAll(n.Pods.opts.podDir(podID)); err != nil {
		t.Fatal(err)
	}
	if mounted, err := isMount(n.Pods.opts.volumeSources(id, containerSpec("", "").Config.Mounts)[0]); err != nil || !mounted {
		t.Fatalf("the volume is mounted: %t, %v", mounted, err)
	}
	n = f.open(t, dir)
	n.Containers.wg.Wait() // the sweep is in the background
	n.Close()
	assertNothing(t, f, dir)
}

func TestInFront(t *testing.T) {
	for cause, want := range map[error]string{
		spec.ErrRROUnsupported: "RROUnsupported: ",
		ErrImageVolume:         "ImageVolumeMountFailed: ",
		ErrInvalid:             "invalid request",
	} {
		err := inFront(cause)
		if !errors.Is(err, cause) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v: %v", cause, err)
		}
	}
}
