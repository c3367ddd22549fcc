package contract

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// TestImageHandlers: every call that takes an ImageSpec refuses one for an unknown
// handler and takes one for a handler that is configured.
func TestImageHandlers(t *testing.T) {
	f := &fixture{Fresh: node.Open(t, "[handlers.other]\n", nil)}
	ctx := t.Context()
	if _, err := f.Pull(ctx, busybox); err != nil {
		t.Fatal(err)
	}
	pod := node.Pod("images", "")
	id, err := f.RunPod(ctx, pod)
	if err != nil {
		t.Fatal(err)
	}
	create := func(edit func(*runtimeapi.ContainerConfig)) error {
		c := node.Container("c", busybox, "true")
		edit(c)
		_, err := f.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: id, Config: c, SandboxConfig: pod})
		return err
	}
	calls := map[string]func(*runtimeapi.ImageSpec) error{
		"PullImage": func(i *runtimeapi.ImageSpec) error {
			_, err := f.Images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: i})
			return err
		},
		"ImageStatus": func(i *runtimeapi.ImageSpec) error {
			_, err := f.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: i})
			return err
		},
		"ListImages": func(i *runtimeapi.ImageSpec) error {
			_, err := f.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: i}})
			return err
		},
		"StreamImages": func(i *runtimeapi.ImageSpec) error {
			stream, err := f.Images.StreamImages(ctx, &runtimeapi.StreamImagesRequest{Filter: &runtimeapi.ImageFilter{Image: i}})
			if err != nil {
				return err
			}
			_, err = stream.Recv()
			return err
		},
		"CreateContainer": func(i *runtimeapi.ImageSpec) error {
			return create(func(c *runtimeapi.ContainerConfig) { c.Image = i })
		},
		"CreateContainer, image volume": func(i *runtimeapi.ImageSpec) error {
			return create(func(c *runtimeapi.ContainerConfig) {
				c.Metadata.Name = "volume"
				c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/volume", Image: i}}
			})
		},
		"RemoveImage": func(i *runtimeapi.ImageSpec) error {
			name := i.GetImage()
			if i.GetRuntimeHandler() == "other" {
				name = absent // the others need it
			}
			_, err := f.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: name, RuntimeHandler: i.GetRuntimeHandler()}})
			return err
		},
	}
	for name, call := range calls {
		for handler, want := range map[string]codes.Code{"nonesuch": codes.InvalidArgument, "other": codes.OK} {
			if err := call(&runtimeapi.ImageSpec{Image: busybox, RuntimeHandler: handler}); status.Code(err) != want {
				t.Errorf("%s for handler %s: %v; want %v", name, handler, err, want)
			}
		}
	}
	f.Done(t)
}
