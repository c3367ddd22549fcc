package installation

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOthersPlugins: CNI plugins that somebody else brought are left alone, also when
// they are the same as ours, and go with berth only when they came with it.
func TestOthersPlugins(t *testing.T) {
	i := newImage(t)
	bin := filepath.Join(i.root, "/opt/cni/bin")
	i.file(filepath.Join(bin, "bridge"), "theirs", 0o755)
	i.file(filepath.Join(bin, "portmap"), "the same", 0o755)
	before := i.all()
	i.o.Plugins = t.TempDir()
	for _, name := range []string{"bridge", "host-local", "loopback"} {
		i.file(filepath.Join(i.o.Plugins, name), "of berth", 0o755)
	}
	i.file(filepath.Join(i.o.Plugins, "portmap"), "the same", 0o755)
	contains(t, i.mustInstall(), "left alone  /opt/cni/bin/bridge: it was not berth", "unchanged   /opt/cni/bin/portmap", "wrote       /opt/cni/bin/host-local")
	if i.get("/opt/cni/bin/bridge") != "theirs" {
		t.Error("somebody else's plugin was replaced")
	}

	i.file(filepath.Join(i.o.Plugins, "host-local"), "newer", 0o755)
	i.file(filepath.Join(bin, "loopback"), "an add-on's", 0o755)
	contains(t, i.mustInstall(), "replaced    /opt/cni/bin/host-local", "left alone  /opt/cni/bin/loopback: it was changed")
	contains(t, i.mustUninstall(), "removed     /opt/cni/bin/host-local", "left alone  /opt/cni/bin/loopback")
	if err := os.Remove(filepath.Join(bin, "loopback")); err != nil {
		t.Fatal(err)
	}
	i.same(before)
}

// TestSameWords: a file that is as berth would write it, and was there before, stays.
func TestSameWords(t *testing.T) {
	i := newImage(t)
	i.put("/etc/crictl.yaml", string(crictlSettings("/run/berth/berth.sock")))
	before := i.all()
	contains(t, i.mustInstall(), "unchanged   /etc/crictl.yaml")
	i.mustUninstall()
	i.same(before)
}

// TestSharedFolders: in a folder that berth shares, what is called as something of
// berth's in its other folder is somebody else's.
func TestSharedFolders(t *testing.T) {
	i := newImage(t)
	i.put("/etc/berth/config.toml", "root = \"/data\"\nstate = \"/run/node\"\n")
	i.put("/data/containers/storage", "podman's")
	i.put("/data/shims/x", "")
	i.put("/run/node/images/x", "")
	before := i.all()
	i.mustInstall()
	i.put("/data/images/x", "")
	i.put("/data/pods/.keep", "")
	i.put("/run/node/pods/x", "")
	i.o.Force = true // the settings are removed too; there is a pod
	i.mustUninstall()
	i.put("/etc/berth/config.toml", "root = \"/data\"\nstate = \"/run/node\"\n")
	i.same(before)
}

// TestUninstallDisk: a disk that is mounted as the daemon's folder is emptied.
func TestUninstallDisk(t *testing.T) {
	i := newImage(t)
	i.mustInstall()
	at := filepath.Join(i.root, "var/lib/berth")
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", at, "tmpfs", 0, ""); err != nil {
		t.Skipf("mount: %v", err)
	}
	defer func() { _ = unix.Unmount(at, unix.MNT_DETACH) }()
	i.put("/var/lib/berth/images/x", "")
	contains(t, i.mustUninstall(), "left alone  /var/lib/berth: ", "busy")
	if entries, err := os.ReadDir(at); err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}

	inside := filepath.Join(at, "images", "mnt")
	if err := os.MkdirAll(inside, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", inside, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(inside, unix.MNT_DETACH) }()
	i.put("/var/lib/berth/images/mnt/x", "")
	if out := i.mustUninstall(); !strings.Contains(out, "1 file systems are mounted in it") {
		t.Error(out)
	}
	i.get("/var/lib/berth/images/mnt/x")
}

// TestReadOnlyNode: what is said is what was in the way, and that alone.
func TestReadOnlyNode(t *testing.T) {
	i := newImage(t)
	etc := filepath.Join(i.root, "etc")
	if err := os.Mkdir(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", etc, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Skipf("mount: %v", err)
	}
	defer func() { _ = unix.Unmount(etc, unix.MNT_DETACH) }()
	if _, err := i.install(); err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("%v", err)
	}
}
