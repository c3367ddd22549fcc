package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/sandbox/spec"
	"github.com/berthd/berth/snapshot"
)

// ErrImageVolume marks that an image volume (KEP-4639) cannot be mounted. Its text is
// the prefix that cri-api (pkg/errors) gives this failure; Create puts it first.
var ErrImageVolume = errors.New("ImageVolumeMountFailed")

// An ImageVolume is an image that a container has mounted as a volume.
type ImageVolume struct {
	At    string           `json:"at"` // the mount's container path, as kubelet wrote it
	Image ImageOfContainer `json:"image"`
}

// marked is an error that also is one of mark, without mark's text.
type marked struct{ cause, mark error }

func (e marked) Error() string   { return e.cause.Error() }
func (e marked) Unwrap() []error { return []error{e.cause, e.mark} }

// prefixed is an error whose text begins with that of prefix, as kubelet wants it: it
// looks at the very first bytes of the message.
type prefixed struct{ prefix, cause error }

func (e prefixed) Error() string { return e.prefix.Error() + ": " + e.cause.Error() }
func (e prefixed) Unwrap() error { return e.cause }

// inFront puts the prefix first that kubelet looks for at the very first bytes of a
// failed creation's message (cri-api, pkg/errors).
func inFront(err error) error {
	for _, prefix := range []error{ErrImageVolume, spec.ErrRROUnsupported} {
		if errors.Is(err, prefix) {
			return prefixed{prefix, err}
		}
	}
	return err
}

// addImageVolumes mounts the images of the container's image volumes in its bundle, one
// mount for each volume and one more for a sub path. That they are there is on record
// nowhere: delImageVolumes looks at the bundle.
func (cs *Containers) addImageVolumes(ctx context.Context, c *Container) error {
	for i, m := range c.Record().Config().GetMounts() {
		if m.GetImage() == nil {
			continue
		}
		if err := cs.addImageVolume(ctx, c, i, m); err != nil {
			return marked{fmt.Errorf("mount %s: %w", m.GetContainerPath(), err), ErrImageVolume}
		}
	}
	return nil
}

// addImageVolume mounts the image of mount number i. The image must be on the node, as
// that of a container. Its layers stay until the container's root filesystem is removed.
func (cs *Containers) addImageVolume(ctx context.Context, c *Container, i int, m *runtimeapi.Mount) error {
	asked := m.GetImage()
	img, err := cs.opts.Images.Get(asked.GetImage())
	if errors.Is(err, imageservice.ErrNotFound) {
		return fmt.Errorf("%w; pull it first", err)
	}
	if err != nil {
		return err
	}
	id := c.Record().ID
	mounts, err := cs.opts.Roots.View(ctx, id, img.DiffIDs, c.pod.Record().idMapped())
	if err != nil {
		return fmt.Errorf("image %s: %w", img.ID, err)
	}
	err = c.note(func(r *ContainerRecord) {
		r.ImageVolumes = append(r.ImageVolumes, ImageVolume{At: m.GetContainerPath(), Image: ImageOfContainer{
			ID: img.ID.String(), Ref: imageRef(img, asked.GetUserSpecifiedImage()), DiffIDs: img.DiffIDs}})
	})
	if err != nil {
		return err
	}
	dir := cs.opts.imageVolume(id, i)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	label, err := cs.mountLabel(ctx, c)
	if err != nil {
		return err
	}
	if err := snapshot.MountAll(snapshot.WithLabel(mounts, label), filepath.Join(dir, volumeRoot)); err != nil {
		return err
	}
	if m.GetImageSubPath() == "" {
		return nil
	}
	err = snapshot.BindFromRoot(filepath.Join(dir, volumeRoot), m.GetImageSubPath(), filepath.Join(dir, volumeSub))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sub path %q: not in image %s: %w", m.GetImageSubPath(), img.ID, ErrInvalid)
	}
	if err != nil {
		return fmt.Errorf("sub path: %w", err)
	}
	return nil
}

// What is in the folder of an image volume: mount points.
const (
	volumeRoot = "root" // the whole image
	volumeSub  = "sub"  // the sub path of it, folder or file
)

func (cs *Containers) delImageVolumes(_ context.Context, c *Container) error {
	return cs.opts.removeImageVolumes(c.Record().ID)
}

// removeImageVolumes unmounts the image volumes of a container, whichever are there.
func (o Options) removeImageVolumes(id string) error {
	volumes, err := os.ReadDir(o.imageVolumes(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("image volumes: %w", err)
	}
	for _, v := range volumes {
		for _, point := range []string{volumeSub, volumeRoot} {
			if err := snapshot.Unmount(filepath.Join(o.imageVolumes(id), v.Name(), point)); err != nil {
				return fmt.Errorf("image volumes: %w", err)
			}
		}
	}
	if err := os.RemoveAll(o.imageVolumes(id)); err != nil {
		return fmt.Errorf("image volumes: %w", err)
	}
	return nil
}

// volumeSources are the sources of the image volumes among mounts, by their place there.
func (o Options) volumeSources(id string, mounts []*runtimeapi.Mount) map[int]string {
	sources := map[int]string{}
	for i, m := range mounts {
		if m.GetImage() == nil {
			continue
		}
		point := volumeRoot
		if m.GetImageSubPath() != "" {
			point = volumeSub
		}
		sources[i] = filepath.Join(o.imageVolume(id, i), point)
	}
	return sources
}

func (o Options) imageVolumes(id string) string { return filepath.Join(o.bundle(id), "image-volumes") }
func (o Options) imageVolume(id string, i int) string {
	return filepath.Join(o.imageVolumes(id), strconv.Itoa(i))
}

// Mounts are the container's mounts as its status has them: as kubelet wrote them, and
// for an image volume with a digested reference of the image that is mounted. They must
// not be changed.
func (r ContainerRecord) Mounts() []*runtimeapi.Mount {
	asked := r.Config().GetMounts()
	if len(r.ImageVolumes) == 0 {
		return asked
	}
	mounts := make([]*runtimeapi.Mount, len(asked))
	left := r.ImageVolumes // in the order of the mounts
	for i, m := range asked {
		mounts[i] = m
		if m.GetImage() == nil || len(left) == 0 || left[0].At != m.GetContainerPath() {
			continue
		}
		mounts[i] = withImageRef(m, left[0].Image.Ref)
		left = left[1:]
	}
	return mounts
}

func withImageRef(m *runtimeapi.Mount, ref string) *runtimeapi.Mount {
	m = proto.CloneOf(m)
	m.Image.ImageRef = ref
	return m
}
