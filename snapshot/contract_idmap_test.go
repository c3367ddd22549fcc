package snapshot

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// userNamespace makes one with that map, until the test ends.
func userNamespace(t *testing.T, hostID, size uint32) IDMap {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	ids := []syscall.SysProcIDMap{{HostID: int(hostID), Size: int(size)}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return IDMap{UserNS: fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid), HostID: hostID, Size: size}
}

// as runs a shell command in the user namespace of m, as its user and group uid.
func as(t *testing.T, m IDMap, uid int, dir, script string) error {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "nsenter", "--user="+m.UserNS, fmt.Sprintf("--setuid=%d", uid), fmt.Sprintf("--setgid=%d", uid),
		"--wd="+dir, "sh", "-ec", script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func owned(e entry, uid, gid int) entry {
	return e.with(func(h *tar.Header) { h.Uid, h.Gid = uid, gid })
}

// testIDMap is a root file system in a user namespace: owners are its users, for what is
// read, written, and copied up to be written.
func testIDMap(t *testing.T, d Driver, reopen func() Driver) {
	m := userNamespace(t, 300_000, 65_536)
	if err := d.CheckIDMap(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	a := add(t, d, owned(dir("./", 0o755), 7, 8), file("etc/passwd", "x"), owned(file("home", "old"), 1000, 100),
		owned(file("too-high", ""), 70_000, 0), file("f", "lower").xattr("user.k", "v"), file("gone", ""))
	b := add(t, d, owned(file("f", "upper"), 0, 5))
	chain := []digest.Digest{a, b}
	root := mountedIDs(t, d, "c1", m, chain)
	if err := as(t, m, 0, root, `echo new > made; echo more >> home; rm gone; mkdir dir; chown 9:10 dir`); err != nil {
		t.Error(err)
	}
	if err := as(t, m, 1000, root, `echo x >> f`); err == nil {
		t.Error("a user writes to a file of root's")
	}
	want := []string{
		". drwxr-xr-x 300007:300008 at other time",
		"dir drwxr-xr-x 300009:300010 at other time",
		"etc drwxr-xr-x 300000:300000 at other time",
		`etc/passwd -rw-r--r-- 300000:300000 "x"`,
		`f -rw-r--r-- 300000:300005 "upper"`,
		`home -rw-r--r-- 301000:300100 "oldmore\n" at other time`,
		`made -rw-r--r-- 300000:300000 "new\n" at other time`,
		`too-high -rw-r--r-- 65534:300000 ""`,
	}
	same(t, describe(t, root), slices.Clone(want))

	d = reopen() // the daemon's restart: the same again
	mounts, err := d.Prepare(t.Context(), "c1", chain, WithIDMap(m))
	if err != nil {
		t.Fatal(err)
	}
	if err := Unmount(root); err != nil {
		t.Fatal(err)
	}
	if err := MountAll(mounts, root); err != nil {
		t.Fatal(err)
	}
	same(t, describe(t, root), slices.Clone(want))
}

// mountedIDs prepares a sealed chain as container id for m, and mounts it until the test ends.
func mountedIDs(t *testing.T, d Driver, id string, m IDMap, chain []digest.Digest) string {
	t.Helper()
	if err := d.SealImage(t.Context(), chain); err != nil {
		t.Fatal(err)
	}
	mounts, err := d.Prepare(t.Context(), id, chain, WithIDMap(m))
	if err != nil {
		t.Fatal(err)
	}
	parent := t.TempDir()
	for _, dir := range []string{parent, filepath.Dir(parent)} { // root of the namespace goes through here
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(parent, "rootfs")
	if err := MountAll(mounts, root); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Unmount(root); err != nil {
			t.Error(err)
		}
		if err := d.Remove(context.WithoutCancel(t.Context()), id); err != nil {
			t.Error(err)
		}
	})
	return root
}

// testIDMapShared has one image under three maps at once.
func testIDMapShared(t *testing.T, d Driver, _ func() Driver) {
	a := add(t, d, owned(file("f", ""), 5, 5))
	plain := mounted(t, d, "c0", a)
	roots := map[uint32]string{0: plain}
	for _, host := range []uint32{100_000, 200_000} {
		roots[host] = mountedIDs(t, d, fmt.Sprint("c", host), userNamespace(t, host, 65_536), []digest.Digest{a})
	}
	for host, root := range roots {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(root, "f"), &st); err != nil || st.Uid != host+5 {
			t.Errorf("under %d: owner %d, %v", host, st.Uid, err)
		}
	}
}

func testIDMapRefused(t *testing.T, d Driver, _ func() Driver) {
	m := userNamespace(t, 100_000, 65_536)
	a := add(t, d, file("f", ""))
	chain := []digest.Digest{a}
	mountedIDs(t, d, "c1", m, chain)
	if _, err := d.Prepare(t.Context(), "c1", chain); !errors.Is(err, ErrInUse) {
		t.Errorf("without the map it was made for: %v", err)
	}
	m.HostID++
	if _, err := d.Prepare(t.Context(), "c1", chain, WithIDMap(m)); !errors.Is(err, ErrInUse) {
		t.Errorf("with another map: %v", err)
	}
	m.HostID--
	m.UserNS = "/no/such/namespace"
	mounts, err := d.Prepare(t.Context(), "c1", chain, WithIDMap(m))
	if err != nil {
		t.Fatal(err)
	}
	if err := MountAll(mounts, filepath.Join(t.TempDir(), "other")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("mount without the namespace: %v", err)
	}
	m.UserNS = "/proc/self/ns/user" // a mount cannot be mapped to what it is mapped to
	if err := d.CheckIDMap(t.Context(), m); !errors.Is(err, ErrUnsupported) {
		t.Errorf("check: %v", err)
	}
}

// testIDMapManyLayers has more layers than a page of options holds.
func testIDMapManyLayers(t *testing.T, d Driver, _ func() Driver) {
	m := userNamespace(t, 100_000, 65_536)
	var chain []digest.Digest
	for i := range 100 {
		chain = append(chain, add(t, d, file(fmt.Sprintf("f%d", i), "")))
	}
	root := mountedIDs(t, d, "c1", m, chain)
	for _, name := range []string{"f0", "f99"} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(root, name), &st); err != nil || st.Uid != 100_000 {
			t.Errorf("%s: owner %d, %v", name, st.Uid, err)
		}
	}
}
