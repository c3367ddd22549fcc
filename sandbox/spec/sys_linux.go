package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// isCgroup2 tells whether path is the unified hierarchy.
func isCgroup2(path string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return false, os.NewSyscallError("statfs", err)
	}
	return st.Type == unix.CGROUP2_SUPER_MAGIC, nil
}

// hasMountSetattr asks with a descriptor that is none: a kernel that has the call
// says so.
func hasMountSetattr() bool {
	return !errors.Is(unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{}), unix.ENOSYS)
}

// LoadDevices looks up the devices of a request: the nodes to make, and the rules that
// allow them. A folder stands for the devices in it, a symbolic link for what it
// leads to. Both results are never nil without an error. Nothing is changed.
//
// A path that is not absolute, missing, or not a device is ErrInvalid.
func LoadDevices(devices []*runtimeapi.Device) ([]specs.LinuxDevice, []specs.LinuxDeviceCgroup, error) {
	nodes, rules := []specs.LinuxDevice{}, []specs.LinuxDeviceCgroup{}
	for _, d := range devices {
		access, err := devicePermissions(d.GetPermissions())
		if err != nil {
			return nil, nil, fmt.Errorf("device %s: %w", d.GetHostPath(), err)
		}
		found, err := devicesAt(d.GetHostPath(), d.GetContainerPath())
		if err != nil {
			return nil, nil, err
		}
		for _, n := range found {
			nodes = append(nodes, n)
			rules = append(rules, specs.LinuxDeviceCgroup{
				Allow: true, Type: n.Type, Major: new(n.Major), Minor: new(n.Minor), Access: access,
			})
		}
	}
	return nodes, rules, nil
}

// devicesAt gives the device at host, or those in it, as they appear at dest.
func devicesAt(host, dest string) ([]specs.LinuxDevice, error) {
	if dest == "" {
		dest = host
	}
	if !filepath.IsAbs(host) || !filepath.IsAbs(dest) || strings.ContainsRune(host+dest, 0) {
		return nil, invalid("device %q at %q: not an absolute path", host, dest)
	}
	dest = filepath.Clean(dest)
	real, err := filepath.EvalSymlinks(host)
	if err != nil {
		return nil, invalid("device %s: %v", host, err)
	}
	info, err := os.Stat(real)
	if err != nil {
		return nil, invalid("device %s: %v", host, err)
	}
	if info.IsDir() {
		return devicesIn(real, dest, nil)
	}
	node, ok, err := deviceNode(real, dest)
	if err != nil {
		return nil, invalid("device %s: %v", host, err)
	}
	if !ok {
		return nil, invalid("device %s: not a device", host)
	}
	return []specs.LinuxDevice{node}, nil
}

// HostDevices gives the device nodes of the host's /dev, for a privileged container.
// Those that each container has of its own are not among them.
func HostDevices() ([]specs.LinuxDevice, error) {
	skip := []string{"/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/.lxc", "/dev/.lxd-mounts", "/dev/.udev",
		"/dev/console", "/dev/ptmx"}
	return devicesIn("/dev", "/dev", skip)
}

// devicesIn gives the character and block devices below dir, without the paths in
// skip, as they appear at dest. Symbolic links are not followed.
func devicesIn(dir, dest string, skip []string) ([]specs.LinuxDevice, error) {
	nodes := []specs.LinuxDevice{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if gone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if slices.Contains(skip, p) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.Type()&fs.ModeDevice == 0 {
			return nil
		}
		node, ok, err := deviceNode(p, filepath.Join(dest, strings.TrimPrefix(p, dir)))
		if err != nil && !gone(err) {
			return err
		}
		if ok {
			nodes = append(nodes, node)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("devices: %w", err)
	}
	return nodes, nil
}

// deviceNode describes the device at path. ok is false when it is none.
func deviceNode(path, dest string) (node specs.LinuxDevice, ok bool, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return node, false, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	kind := ""
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		kind = "c"
	case unix.S_IFBLK:
		kind = "b"
	default:
		return node, false, nil
	}
	return specs.LinuxDevice{
		Path: dest, Type: kind,
		Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		FileMode: new(fs.FileMode(st.Mode & 0o7777)), UID: new(st.Uid), GID: new(st.Gid),
	}, true, nil
}
