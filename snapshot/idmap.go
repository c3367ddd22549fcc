package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berthd/berth/snapshot/mountpoint"
)

// overlayIDMapped mounts an overlay whose lower directories are seen through the map of
// a user namespace (kernel 5.19).
//
// Overlayfs takes such a directory only if it is mounted somewhere. That is done on a
// thread with mounts of its own, each directory in its own place: so the options are the
// ones of any overlay, and a crash leaves nothing mounted. The overlay keeps its layers.
func (m mounting) overlayIDMapped(target string) error {
	userns, err := os.Open(m.UserNS)
	if err != nil {
		return fmt.Errorf("user namespace: %w", err)
	}
	defer userns.Close()
	lowers, _ := m.setting("lowerdir")
	var made at
	err = mountpoint.InOwnNamespace(func() error {
		dirs := strings.Split(lowers, ":")
		slices.Sort(dirs)
		for _, lower := range slices.Compact(dirs) { // what is mapped once cannot be mapped again
			if err := mountpoint.MapInPlace(lower, int(userns.Fd())); err != nil {
				return err
			}
		}
		if mountpoint.AppendsLowerDirs() {
			made, err = m.fsmountOverlay()
			return err
		}
		if err = m.overlayByMount(target, mountpoint.MaxData); err == nil {
			made, err = cloneTree(target)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("idmapped layers: %w", err)
	}
	defer made.close()
	return mountpoint.Move(int(made), target)
}

// bindIDMapped mounts a directory, whose owners are seen through the map of a user
// namespace, at target. What the file system under it forbids, such as programs, a root
// file system may have.
func (m mounting) bindIDMapped(target string) error {
	userns, err := os.Open(m.UserNS)
	if err != nil {
		return fmt.Errorf("user namespace: %w", err)
	}
	defer userns.Close()
	tree, err := cloneTree(m.Source)
	if err != nil {
		return err
	}
	defer tree.close()
	if err := m.flags.Apply(int(tree), int(userns.Fd())); err != nil {
		return fmt.Errorf("mount_setattr %s: MOUNT_ATTR_IDMAP: %w", m.Source, err)
	}
	return mountpoint.Move(int(tree), target)
}

// CheckIDMap implements Roots.
func (o *overlay) CheckIDMap(_ context.Context, m IDMap) (err error) {
	dir, err := os.MkdirTemp(o.path("tmp"), probePrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	mount, err := o.laying.trial(dir, m)
	if err != nil {
		return err
	}
	root := filepath.Join(dir, "root")
	if err := MountAll([]Mount{mount}, root); err != nil {
		return fmt.Errorf("user namespaces need a kernel of 5.19 or later and a file system under %s that can be mounted with a map of IDs (ext4, xfs, btrfs): %w: %w", o.dir, ErrUnsupported, err)
	}
	defer func() { err = errors.Join(err, Unmount(root)) }()
	tree, err := openAt(root)
	if err != nil {
		return err
	}
	defer tree.close()
	a, err := tree.stat("inside")
	if err == nil && a.uid != m.host(0) {
		err = fmt.Errorf("user 0 of a layer mounted with a map of IDs is %d, not %d: %w", a.uid, m.host(0), ErrUnsupported)
	}
	return err
}
