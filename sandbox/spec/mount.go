package spec

import (
	"fmt"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// addMounts lists what is mounted: what every container has, the pod's files, the
// image's volumes, and kubelet's mounts, which come in the place of any of the others.
// Parents stand before what is below them.
func addMounts(s *specs.Spec, in Input) error {
	asked, propagation, err := kubeletMounts(in)
	if err != nil {
		return err
	}
	defaults := slices.DeleteFunc(slices.Concat(systemMounts(in), fileMounts(in)), func(m specs.Mount) bool {
		return replaced(m.Destination, asked)
	})
	volumes, err := volumeMounts(in, defaults, asked)
	if err != nil {
		return err
	}
	s.Mounts = slices.Concat(defaults, volumes, asked)
	slices.SortStableFunc(s.Mounts, func(a, b specs.Mount) int { return depth(a.Destination) - depth(b.Destination) })
	s.Linux.RootfsPropagation = propagation
	return nil
}

// depth of a clean absolute path.
func depth(p string) int {
	if p == "/" {
		return 0
	}
	return strings.Count(p, "/")
}

// systemMounts are proc, sys, dev and what is below. A privileged container may
// write to sysfs and to its cgroups (CRI).
func systemMounts(in Input) []specs.Mount {
	access := "ro"
	if privileged(in) {
		access = "rw"
	}
	pts := []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
	if m, err := UserNamespace(in.Pod); err == nil && m.has(ttyGroup) {
		pts = append(pts, "gid="+decimal(ttyGroup))
	}
	mounts := []specs.Mount{
		procMount(), devMount(),
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: pts},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		sysMount(in, access),
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
			Options: []string{"nosuid", "noexec", "nodev", "relatime", access}},
	}
	if in.SELinux.Process != "" && inUserNamespace(in) {
		// The queues of a user namespace cannot be labelled (setxattr(2) is refused there),
		// which would keep the container from starting. mq_open(3) does without the mount.
		mounts = slices.DeleteFunc(mounts, func(m specs.Mount) bool { return m.Type == "mqueue" })
	}
	return mounts
}

// ttyGroup is the group "tty" of all distributions.
const ttyGroup = 5

// sysMount is sysfs. It shows a network namespace, and only that namespace's owner may
// mount it: in a user namespace with the host's network it is the host's, bound.
func sysMount(in Input, access string) specs.Mount {
	hostNetwork := in.Pod.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE
	if !hostNetwork || !inUserNamespace(in) {
		return specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}}
	}
	options := []string{"rbind", "rprivate", "nosuid", "noexec", "nodev", access}
	if access == "ro" && in.Host.RecursiveReadOnly {
		options = append(options, "rro")
	}
	return specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: options}
}

func procMount() specs.Mount {
	return specs.Mount{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}}
}

func devMount() specs.Mount {
	return specs.Mount{Destination: "/dev", Type: "tmpfs", Source: "tmpfs",
		Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}}
}

// fileMounts are what kubelet leaves to the runtime.
func fileMounts(in Input) []specs.Mount {
	access := "rw"
	if in.Container.GetLinux().GetSecurityContext().GetReadonlyRootfs() {
		access = "ro"
	}
	mounts := []specs.Mount{shmMount(in)}
	for _, f := range []struct{ at, source string }{
		{"/etc/resolv.conf", in.Files.ResolvConf}, {"/etc/hostname", in.Files.Hostname},
	} {
		if f.source != "" {
			mounts = append(mounts, specs.Mount{Destination: f.at, Type: "bind", Source: f.source,
				Options: []string{"bind", "rprivate", "nosuid", "nodev", "noexec", access}})
		}
	}
	return mounts
}

func shmMount(in Input) specs.Mount {
	m := specs.Mount{Destination: "/dev/shm", Type: "bind", Source: in.Files.Shm,
		Options: []string{"rbind", "rprivate", "nosuid", "nodev", "noexec", "rw"}}
	switch {
	case in.Files.Shm != "":
	case in.Pod.GetLinux().GetSecurityContext().GetNamespaceOptions().GetIpc() == runtimeapi.NamespaceMode_NODE:
		m.Source = "/dev/shm"
	default:
		m.Type, m.Source = "tmpfs", "shm"
		m.Options = []string{"nosuid", "nodev", "noexec", "mode=1777", "size=65536k"}
	}
	return m
}

// replaced tells whether a mount of kubelet's comes instead of the one at dest: one
// at the same place, or the whole of /dev, /proc or /sys with all that is below.
func replaced(dest string, asked []specs.Mount) bool {
	return slices.ContainsFunc(asked, func(m specs.Mount) bool {
		whole := m.Destination == "/dev" || m.Destination == "/proc" || m.Destination == "/sys"
		return m.Destination == dest || whole && below(dest, m.Destination)
	})
}

func below(p, dir string) bool { return strings.HasPrefix(p, dir+"/") }

// kubeletMounts are the request's mounts, and the propagation the root needs for
// them: what comes from the host must pass through it.
func kubeletMounts(in Input) (mounts []specs.Mount, propagation string, err error) {
	for i, m := range in.Container.GetMounts() {
		mount, err := kubeletMount(m, in.Host)
		if err != nil {
			return nil, "", err
		}
		if m.GetImage() != nil {
			if mount.Source = in.ImageVolumes[i]; mount.Source == "" {
				return nil, "", fmt.Errorf("mount %s: the image is not mounted", m.GetContainerPath())
			}
		}
		idmap, err := idmapOptions(m, in.Pod)
		if err != nil {
			return nil, "", err
		}
		if m.GetImage() == nil { // an image's layers were mapped when it was mounted: overlayfs cannot be
			mount.Options = append(mount.Options, idmap...)
		}
		mounts = append(mounts, mount)
		switch m.GetPropagation() {
		case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
			propagation = "rshared"
		case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
			if propagation == "" {
				propagation = "rslave"
			}
		}
	}
	return mounts, propagation, nil
}

func kubeletMount(m *runtimeapi.Mount, host Host) (specs.Mount, error) {
	if err := checkMount(m); err != nil {
		return specs.Mount{}, err
	}
	options, err := mountOptions(m, host)
	if err != nil {
		return specs.Mount{}, err
	}
	return specs.Mount{
		Destination: path.Clean(m.GetContainerPath()), Type: "bind", Source: m.GetHostPath(), Options: options,
	}, nil
}

// CheckImageVolume checks what CRI says of a mount of an image (KEP-4639): ErrInvalid
// otherwise. Other mounts are fine, unless they have what only image volumes have.
func CheckImageVolume(m *runtimeapi.Mount) error {
	to, sub := m.GetContainerPath(), m.GetImageSubPath()
	switch {
	case m.GetImage() == nil && sub != "":
		return invalid("mount %s: image_sub_path without an image", to)
	case m.GetImage() == nil:
		return nil
	case m.GetImage().GetImage() == "":
		return invalid("mount %s: image: no name", to)
	case m.GetHostPath() != "":
		return invalid("mount %s: host_path and image exclude each other", to)
	case m.GetPropagation() != runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
		return invalid("mount %s: an image volume has PRIVATE propagation, not %s", to, m.GetPropagation())
	case m.GetSelinuxRelabel():
		return invalid("mount %s: an image volume cannot be relabelled: other containers use the image too", to)
	case slices.Contains(strings.Split(sub, "/"), "..") || strings.ContainsRune(sub, 0):
		return invalid("mount %s: image_sub_path %q: leads out of the image", to, sub)
	}
	return nil
}

// checkMount checks a mount's paths and what is not done yet.
func checkMount(m *runtimeapi.Mount) error {
	to, from := m.GetContainerPath(), m.GetHostPath()
	switch {
	case !path.IsAbs(to) || strings.ContainsRune(to, 0):
		return invalid("mount %q: container path: not an absolute path", to)
	case path.Clean(to) == "/":
		return invalid("mount %q: container path: the root itself", to)
	case m.GetImage() == nil && (!path.IsAbs(from) || strings.ContainsRune(from, 0)):
		return invalid("mount %s: host path %q: not an absolute path", to, from)
	}
	return CheckImageVolume(m)
}

// mountOptions are the OCI options of a mount of kubelet's.
func mountOptions(m *runtimeapi.Mount, host Host) ([]string, error) {
	options := []string{"rbind"}
	switch m.GetPropagation() {
	case runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
		options = append(options, "rprivate")
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		options = append(options, "rslave")
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		options = append(options, "rshared")
	default:
		return nil, invalid("mount %s: propagation %d is unknown", m.GetContainerPath(), m.GetPropagation())
	}
	if m.GetReadonly() || m.GetImage() != nil { // image volumes are by definition (CRI, Mount.image)
		options = append(options, "ro")
	} else {
		options = append(options, "rw")
	}
	if m.GetRecursiveReadOnly() { // KEP-3857
		if !m.GetReadonly() || m.GetPropagation() != runtimeapi.MountPropagation_PROPAGATION_PRIVATE {
			return nil, invalid("mount %s: recursive_read_only needs readonly and PRIVATE propagation", m.GetContainerPath())
		}
		if !host.RecursiveReadOnly {
			return nil, recursiveReadOnlyError(m.GetContainerPath())
		}
		options = append(options, "rro")
	}
	for _, o := range m.GetMountOptions() {
		if !slices.Contains(restrictions(), o) {
			return nil, invalid("mount %s: option %q: not one of %s", m.GetContainerPath(), o, strings.Join(restrictions(), ", "))
		}
		options = append(options, o)
	}
	return options, nil
}

// restrictions are the mount options kubelet may add. All of them take away, so that
// none undoes what the source's own mount forbids; read-only has fields of its own.
func restrictions() []string {
	return []string{
		"noexec", "nodev", "nosuid", "nosymfollow", "noatime", "nodiratime", "relatime",
		"rnoexec", "rnodev", "rnosuid", "rnosymfollow", "rnoatime", "rnodiratime", "rrelatime",
	}
}

// VolumePath checks a VOLUME path of an image and cleans it. The path is hostile: one
// that climbs, or is the root, is ErrInvalid, though cleaning would hide it, because
// whoever copies the volume's first content looks there as well (CVE-2022-23648).
func VolumePath(volume string) (string, error) {
	if slices.Contains(strings.Split(volume, "/"), "..") || strings.ContainsRune(volume, 0) {
		return "", invalid("image volume %q: leads out of the image", volume)
	}
	clean := path.Clean("/" + volume)
	if clean == "/" {
		return "", invalid("image volume %q: the root itself", volume)
	}
	return clean, nil
}

// volumeMounts are the image's volumes, apart from those that are at, or below, a
// mount of ours or of kubelet's: an image has no say there, and a mount point would
// have to be made in a folder of the host.
func volumeMounts(in Input, defaults, asked []specs.Mount) ([]specs.Mount, error) {
	var mounts []specs.Mount
	for i, v := range in.Image.Volumes {
		at, err := VolumePath(v)
		if err != nil {
			return nil, err
		}
		if i >= len(in.Volumes) || in.Volumes[i] == "" || taken(at, defaults) {
			continue
		}
		if within(at, asked) || slices.ContainsFunc(mounts, func(m specs.Mount) bool { return m.Destination == at }) {
			continue
		}
		mounts = append(mounts, specs.Mount{Destination: at, Type: "bind", Source: in.Volumes[i],
			Options: []string{"rbind", "rprivate", "rw"}})
	}
	return mounts, nil
}

// taken tells whether a path is, or is below, one of the runtime's own places.
func taken(at string, defaults []specs.Mount) bool {
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if at == dir || below(at, dir) {
			return true
		}
	}
	return within(at, defaults)
}

// within tells whether a path is, or is below, the destination of one of mounts.
func within(at string, mounts []specs.Mount) bool {
	return slices.ContainsFunc(mounts, func(m specs.Mount) bool { return at == m.Destination || below(at, m.Destination) })
}
