package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A laying is how root file systems and views stand on the lower directories of a format.
type laying interface {
	// try is called once, before anything is made. It is ErrUnsupported when this machine
	// lacks something.
	try() error
	// fillRoot makes, in the new directory tmp, what is written to, and completes rec.
	fillRoot(ctx context.Context, tmp string, rec *rootRecord, lowers []string) error
	// mount is what to mount of what fillRoot has made, which is at dir by now.
	mount(dir string, lowers []string, ids IDMap) Mount
	// view is what to mount to read a sealed chain, whose format is open.
	view(ctx context.Context, rec rootRecord, lowers []string) (Mount, error)
	// trial is like mount, for a root file system made up in the new directory dir, of an
	// image that has the directory inside.
	trial(dir string, ids IDMap) (Mount, error)
	// usage measures what container id has written; ErrNotFound, or fs.ErrNotExist.
	usage(ctx context.Context, id string) (Usage, error)
}

// overlays is the laying of overlayfs: lower directories, one to write into, and one that
// overlayfs needs.
type overlays struct{ *overlay }

// try mounts an overlay once, to learn which options this kernel has, and to say at
// the start rather than at the first container what is missing.
func (o overlays) try() (err error) {
	dir, err := os.MkdirTemp(o.path("tmp"), probePrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, sub := range []string{"lower", "upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return err
		}
	}
	lower, err := openAt(filepath.Join(dir, "lower"))
	if err != nil {
		return fmt.Errorf("openat2: %w: %w", ErrUnsupported, err)
	}
	defer lower.close()
	if err := errors.Join(lower.mknod("whiteout", kindChar, 0), lower.setxattr(".", opaqueXattr, []byte("y"))); err != nil {
		return fmt.Errorf("marks of overlayfs: %w: %w", ErrUnsupported, err)
	}
	root := filepath.Join(dir, "root")
	// index=off: a layer may be below many uppers, and an upper may see its layers return.
	// volatile: no container's file is worth a wait for the disk (kernel 5.10).
	for _, options := range [][]string{{"index=off", "volatile"}, {"volatile"}, {"index=off"}, nil} {
		m := Mount{Type: "overlay", Source: "overlay", Options: append([]string{
			"lowerdir=" + filepath.Join(dir, "lower"), "upperdir=" + filepath.Join(dir, "upper"), "workdir=" + filepath.Join(dir, "work"),
		}, options...)}
		if err = MountAll([]Mount{m}, root); err == nil {
			o.options = options
			return Unmount(root)
		}
	}
	return fmt.Errorf("overlayfs: %w: %w", ErrUnsupported, err)
}

// fillRoot implements laying. The upper directory is what the container sees as its root,
// so it takes after the topmost layer's. It is never mounted with a map of IDs, so its
// owner is the one that the container sees, as all is that the container will write.
func (o overlays) fillRoot(_ context.Context, tmp string, rec *rootRecord, lowers []string) error {
	upper := filepath.Join(tmp, "fs")
	for _, dir := range []string{upper, filepath.Join(tmp, "work")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	if err := o.count(tmp, rec); err != nil {
		return err
	}
	meta, err := readMeta(lowers[0])
	if err != nil {
		return err
	}
	to, err := openAt(upper)
	if err != nil {
		return err
	}
	defer to.close()
	meta.uid, meta.gid = rec.IDs.host(meta.uid), rec.IDs.host(meta.gid)
	return meta.apply(to)
}

func (o overlays) mount(dir string, lowers []string, ids IDMap) Mount {
	return Mount{Type: "overlay", Source: "overlay", UserNS: ids.UserNS, Options: slices.Concat([]string{
		"lowerdir=" + strings.Join(lowers, ":"),
		"upperdir=" + filepath.Join(dir, "fs"),
		"workdir=" + filepath.Join(dir, "work"),
	}, o.options)}
}

func (o overlays) view(_ context.Context, rec rootRecord, lowers []string) (Mount, error) {
	if empty := o.path("empty"); len(lowers) == 1 && lowers[0] == empty { // overlayfs takes no directory twice
		return Mount{Type: "bind", Source: empty, Options: []string{"bind", "ro", "nodev"}}, nil
	}
	if len(lowers) == 1 { // overlayfs without an upper directory wants two lower ones
		lowers = append(lowers, o.path("empty"))
	}
	return Mount{Type: "overlay", Source: "overlay", UserNS: rec.IDs.UserNS, Options: []string{"lowerdir=" + strings.Join(lowers, ":"), "ro", "nodev"}}, nil
}

func (o overlays) trial(dir string, ids IDMap) (Mount, error) {
	for _, sub := range []string{"lower", "fs", "work", "lower/inside"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return Mount{}, err
		}
	}
	return o.mount(dir, []string{filepath.Join(dir, "lower")}, ids), nil
}

func (o overlays) usage(ctx context.Context, id string) (Usage, error) {
	if u, ok, err := o.counted(id); ok {
		return u, err
	}
	return measureDir(ctx, o.path("roots", id, "fs"))
}
