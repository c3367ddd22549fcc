package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/sandbox/spec"
)

// Nodes for a user namespace: the IDs that are named are its own, the others the host's.
func TestMakeDeviceNodes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "devices")
	user := &runtimeapi.LinuxContainerSecurityContext{RunAsUser: &runtimeapi.Int64Value{Value: 1000}}
	devices := []specs.LinuxDevice{
		{Path: "/dev/a", Type: "c", Major: 1, Minor: 5, FileMode: new(fs.FileMode(0o660)), UID: new(uint32(1000)), GID: new(uint32(44))},
		{Path: "/dev/b", Type: "b", Major: 7, Minor: 300, FileMode: new(fs.FileMode(0o602)), UID: new(uint32(1000)), GID: new(uint32(0))},
	}
	for range 2 { // an attempt before may have left some
		made, err := makeDeviceNodes(dir, devices, user, spec.IDMap{HostID: 100000, Size: 65536})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range devices {
			var st unix.Stat_t
			if err := unix.Lstat(made[d.Path], &st); err != nil {
				t.Fatal(err)
			}
			kind := map[string]uint32{"c": unix.S_IFCHR, "b": unix.S_IFBLK}[d.Type]
			if st.Mode != kind|uint32(*d.FileMode) || st.Uid != 101000 || st.Gid != *d.GID || st.Rdev != unix.Mkdev(uint32(d.Major), uint32(d.Minor)) {
				t.Errorf("%s: %+v", d.Path, st)
			}
		}
	}
	bad := filepath.Join(t.TempDir(), "nodev")
	if err := os.Mkdir(bad, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", bad, "tmpfs", unix.MS_NODEV, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(bad, 0); err != nil {
			t.Error(err)
		}
	}()
	if _, err := makeDeviceNodes(bad, devices, user, spec.IDMap{}); !errors.Is(err, ErrBadState) {
		t.Errorf("where nodes cannot be opened: %v", err)
	}
}
