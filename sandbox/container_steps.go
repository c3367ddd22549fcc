package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/distribution/reference"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/sandbox/spec"
	"github.com/berthd/berth/shim"
	"github.com/berthd/berth/snapshot"
)

// steps is the anatomy of a container.
func (cs *Containers) steps() []step[*Container] {
	return []step[*Container]{
		{"record", cs.record, cs.unrecord}, // first in, last out
		{"image", cs.findImage, cs.collect},
		{"snapshot", cs.addRoot, cs.delRoot},
		{"image volumes", cs.addImageVolumes, cs.delImageVolumes},
		{"spec", cs.addSpec, cs.delSpec},
		{"task", cs.addTask, cs.delTask},
		{"created", cs.created, nothing[*Container]},
	}
}

func (cs *Containers) record(_ context.Context, c *Container) error {
	if err := c.pod.admit(c); err != nil {
		return err
	}
	if err := c.note(func(*ContainerRecord) {}); err != nil {
		return err
	}
	cs.keepLevel(c.Record())
	return nil
}

func (cs *Containers) unrecord(_ context.Context, c *Container) error {
	r := c.Record()
	if err := os.Remove(c.path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("record: %w", err)
	}
	c.gone.Store(true)
	cs.pods.levels.Release(r.ID)
	c.pod.forget(r.ID)
	if cs.table.drop(r.ID, containerName(r.PodID, r.Config().GetMetadata()), c) {
		c.announce(EventDeleted)
	}
	return nil
}

// findImage notes which image the container is made from. The image must be on
// the node: CreateContainer does not pull.
func (cs *Containers) findImage(_ context.Context, c *Container) error {
	img, err := cs.opts.Images.Get(c.Record().Config().GetImage().GetImage())
	if errors.Is(err, imageservice.ErrNotFound) {
		return fmt.Errorf("%w; pull it first", err)
	}
	if err != nil {
		return err
	}
	if img.IsArtifact() {
		return fmt.Errorf("image %s: an artifact (%.100q), not a container image: it can only be mounted, as an image volume: %w", img.ID, img.ArtifactType, ErrInvalid)
	}
	return c.note(func(r *ContainerRecord) {
		r.Image = ImageOfContainer{ID: img.ID.String(), Ref: imageRef(img, r.Config().GetImage().GetUserSpecifiedImage()), DiffIDs: img.DiffIDs}
	})
}

// imageRef is a digested reference of the image: of the repository that the user
// named when the image has one there, or else its first, or else its ID.
func imageRef(img imageservice.Image, asked string) string {
	if named, err := reference.ParseNormalizedNamed(asked); err == nil {
		for _, d := range img.Digests {
			if repo, _, _ := strings.Cut(d, "@"); repo == named.Name() {
				return d
			}
		}
	}
	if len(img.Digests) > 0 {
		return img.Digests[0]
	}
	return img.ID.String()
}

// collect lets go of layers that only this container kept.
func (cs *Containers) collect(context.Context, *Container) error {
	cs.background(func(ctx context.Context) {
		if err := cs.opts.Images.Collect(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Unused layers not removed; they are looked for again with the next container")
		}
	})
	return nil
}

// addRoot gives the container its writable root filesystem, mounted in its bundle.
func (cs *Containers) addRoot(ctx context.Context, c *Container) error {
	r := c.Record()
	pod := c.pod.Record()
	ids := pod.userNamespace()
	mounts, err := cs.opts.Roots.Prepare(ctx, r.ID, r.Image.DiffIDs, pod.idMapped())
	if err != nil {
		return err
	}
	label, err := cs.mountLabel(ctx, c)
	if err != nil {
		return err
	}
	root := cs.opts.rootfs(r.ID)
	if err := os.MkdirAll(root, 0o700); err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	if ids != (spec.IDMap{}) {
		if err := cs.opts.passable(r.ID, ids); err != nil {
			return fmt.Errorf("bundle: %w", err)
		}
	}
	return snapshot.MountAll(snapshot.WithLabel(mounts, label), root)
}

func (cs *Containers) delRoot(ctx context.Context, c *Container) error {
	return cs.removeRoot(ctx, c.Record().ID)
}

// removeRoot removes a container's bundle and its writable layer, by ID.
func (cs *Containers) removeRoot(ctx context.Context, id string) error {
	if err := snapshot.Unmount(cs.opts.rootfs(id)); err != nil {
		return err
	}
	if err := unmount(cs.opts.targetPin(id)); err != nil {
		return err
	}
	if err := cs.opts.removeImageVolumes(id); err != nil {
		return err
	}
	if err := os.RemoveAll(cs.opts.bundle(id)); err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	return cs.opts.Roots.Remove(ctx, id)
}

func (cs *Containers) delSpec(_ context.Context, c *Container) error {
	r := c.Record()
	if err := os.RemoveAll(cs.opts.volumes(r.PodID, r.ID)); err != nil {
		return fmt.Errorf("volumes: %w", err)
	}
	if err := os.RemoveAll(cs.opts.deviceNodes(r.PodID, r.ID)); err != nil {
		return fmt.Errorf("device nodes: %w", err)
	}
	return nil
}

// addTask makes the container's init, which waits to be started.
func (cs *Containers) addTask(ctx context.Context, c *Container) error {
	r := c.Record()
	cfg := r.Config()
	logPath := ""
	if dir := c.pod.Record().Config().GetLogDirectory(); dir != "" && cfg.GetLogPath() != "" {
		logPath = filepath.Join(dir, cfg.GetLogPath())
	}
	program, _, err := cs.pods.handlers.use(ctx, c.pod.Record().Handler)
	if err != nil {
		return err
	}
	pid, err := cs.opts.Tasks.Create(ctx, shim.CreateRequest{
		ID: r.ID, PodID: r.PodID, Bundle: cs.opts.bundle(r.ID), LogPath: logPath,
		Terminal: cfg.GetTty(), Stdin: cfg.GetStdin(), StdinOnce: cfg.GetStdinOnce(),
		SystemdCgroup: cs.opts.SystemdCgroup, Runtime: program,
	})
	if refused(ctx, err) {
		return c.note(func(r *ContainerRecord) { r.Refusal, r.LogPath = err.Error(), logPath })
	}
	if err != nil {
		return err
	}
	return c.note(func(r *ContainerRecord) { r.Pid, r.LogPath = pid, logPath })
}

// refused tells whether the runtime looked at the container and will not have it,
// unlike an error on the way.
func refused(ctx context.Context, err error) bool {
	return errors.Is(err, shim.ErrRefused) && ctx.Err() == nil
}

func (cs *Containers) delTask(ctx context.Context, c *Container) error {
	return cs.opts.Tasks.Delete(ctx, c.Record().ID)
}

// created makes the container visible, unless its pod was stopped meanwhile.
func (cs *Containers) created(_ context.Context, c *Container) error {
	c.starting() // an end that comes at once is announced after this
	defer c.launched(false)
	err := c.pod.whileOpen(func() error {
		return c.move(Created, func(r *ContainerRecord) { r.Stages = c.trace.soFar() })
	})
	if err != nil {
		return err
	}
	cs.table.put(c.Record().ID, c)
	c.announce(EventCreated)
	if c.Record().Refusal == "" {
		cs.watch(c)
	}
	return nil
}
