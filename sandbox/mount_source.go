package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/moby/sys/mountinfo"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/sandbox/selinux"
)

// checkSources wants what is to be mounted from the host to be there and to propagate as
// asked for. A missing host path is an error (CRI, Mount.host_path): kubelet makes those
// that are to be made. Symbolic links are followed, as mount(2) follows them.
func checkSources(c *runtimeapi.ContainerConfig) error {
	for _, m := range c.GetMounts() {
		if m.GetImage() != nil {
			continue
		}
		if err := checkSource(m); err != nil {
			return fmt.Errorf("mount %s: host path %s: %w", m.GetContainerPath(), m.GetHostPath(), err)
		}
	}
	return nil
}

func checkSource(m *runtimeapi.Mount) error {
	_, err := os.Stat(m.GetHostPath())
	if errors.Is(err, fs.ErrNotExist) {
		if to, linkErr := os.Readlink(m.GetHostPath()); linkErr == nil {
			return fmt.Errorf("is a symbolic link to %s, which is not there: %w", to, ErrMountSource)
		}
		return fmt.Errorf("is not there; make it first: %w", ErrMountSource)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", err, ErrMountSource)
	}
	if m.GetPropagation() == runtimeapi.MountPropagation_PROPAGATION_PRIVATE {
		return nil
	}
	id, known, err := mountIDOf(m.GetHostPath())
	if err != nil || !known {
		return err
	}
	found, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return i.ID != id, i.ID == id })
	if err != nil {
		return fmt.Errorf("mounts: %w", err)
	}
	if len(found) == 0 { // it was unmounted since
		return fmt.Errorf("its mount is gone: %w", ErrMountSource)
	}
	return checkPropagation(m.GetPropagation(), found[0].Mountpoint, found[0].Optional)
}

// checkPropagation wants the mount at point, whose optional fields in mountinfo
// (proc_pid_mountinfo(5)) are tags, to be shared for BIDIRECTIONAL, and shared or a slave
// for HOST_TO_CONTAINER: else nothing would come through, silently. A private root file
// system is no exception: where systemd does not run the node, it is the node's
// administrator who shares it.
func checkPropagation(want runtimeapi.MountPropagation, point, tags string) error {
	kind := "private"
	for tag := range strings.FieldsSeq(tags) {
		switch name, _, _ := strings.Cut(tag, ":"); name {
		case "shared":
			return nil
		case "master":
			kind = "a slave"
		}
	}
	need := "a shared mount"
	if want == runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER {
		if kind == "a slave" {
			return nil
		}
		need = "a shared or slave mount"
	}
	return fmt.Errorf("is on the mount %s, which is %s, and %s needs %s: run \"mount --make-rshared %s\" on the node: %w",
		point, kind, want, need, point, ErrMountSource)
}

// relabel gives the sources of mounts that ask for it the label of the container's files
// (CRI, Mount.selinux_relabel), where SELinux is on: with the pod's own level, so that no
// other pod gets at them. Parts of the system and our own folders are refused.
func (o Options) relabel(mounts []*runtimeapi.Mount, label string) error {
	return relabelBy(mounts, label, func(path, label string) error { return selinux.Relabel(path, label, o.Root, o.State) })
}

func relabelBy(mounts []*runtimeapi.Mount, label string, do func(path, label string) error) error {
	if label == "" {
		return nil
	}
	for _, m := range mounts {
		if !m.GetSelinuxRelabel() || m.GetImage() != nil {
			continue
		}
		err := do(m.GetHostPath(), label)
		if err != nil && !isNoXattr(err) { // such a file system has one label for all its files
			return fmt.Errorf("mount %s: host path %s: relabel: %w: %w", m.GetContainerPath(), m.GetHostPath(), err, ErrMountSource)
		}
	}
	return nil
}
