package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/snapshot/mountpoint"
)

func openTest(t *testing.T, dir string) *overlay {
	t.Helper()
	d, err := Open(t.Context(), "overlay", dir)
	if err != nil {
		t.Fatal(err)
	}
	return d.(*overlay)
}

func TestOpen(t *testing.T) {
	top := scratch(t)
	for _, tt := range []struct {
		name, driver, dir string
		want              error
	}{
		{"an unknown driver", "zfs", top, ErrUnsupported},
		{"a path overlayfs cannot be told", "overlay", filepath.Join(top, "a:b"), ErrInvalid},
		{"a path under a file", "", "/proc/version/x", unix.ENOTDIR},
		{"a new directory", "", filepath.Join(top, "new/dir"), nil},
	} {
		_, err := Open(t.Context(), tt.driver, tt.dir)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if info, err := os.Stat(filepath.Join(top, "new/dir")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestOpenSweeps has a crash leave something in every place where one may.
func TestOpenSweeps(t *testing.T) {
	dir := filepath.Join(scratch(t), "s")
	o := openTest(t, dir)
	layer := add(t, o, file("f", ""))
	if err := o.SealImage(t.Context(), []digest.Digest{layer}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"whole", "torn", "empty"} {
		if _, err := o.Prepare(t.Context(), id, []digest.Digest{layer}); err != nil {
			t.Fatal(err)
		}
	}
	for path, content := range map[string]string{"roots/torn/root.json": "{\"boot", "roots/empty/root.json": ""} {
		if err := os.WriteFile(o.path(path), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := o.Prepare(t.Context(), "torn", []digest.Digest{layer}); err == nil {
		t.Error("prepared from a torn record")
	}
	for _, path := range []string{"tmp/half/fs/etc", "trash/old/fs", "tmp/probe-1/work/work"} {
		if err := os.MkdirAll(o.path(path), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	o = openTest(t, dir)
	o.sweeping.Wait()
	for sub, want := range map[string][]string{"tmp": {}, "trash": {}, "roots": {"whole"}} {
		found, err := os.ReadDir(o.path(sub))
		if err != nil {
			t.Fatal(err)
		}
		got := []string{}
		for _, e := range found {
			got = append(got, e.Name())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s has %v, want %v", sub, got, want)
		}
	}
	if err := errors.Join(o.Remove(t.Context(), "whole"), o.RemoveLayer(t.Context(), layer)); err != nil {
		t.Errorf("a torn snapshot holds its layers: %v", err)
	}
}

// TestReboot has a writable layer from before a reboot, whose last writes may be lost.
func TestReboot(t *testing.T) {
	for name, open := range map[string]func(*testing.T, string) *overlay{"overlay": openTest, "native": openNative} {
		t.Run(name, func(t *testing.T) { testReboot(t, open) })
	}
}

func testReboot(t *testing.T, open func(*testing.T, string) *overlay) {
	dir := filepath.Join(scratch(t), "s")
	o := open(t, dir)
	layer := add(t, o, file("f", ""))
	root := mounted(t, o, "c1", layer)
	if err := os.WriteFile(filepath.Join(root, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Unmount(root); err != nil {
		t.Fatal(err)
	}
	o = open(t, dir)
	o.bootID = "another"
	mounts, err := o.Prepare(t.Context(), "c1", []digest.Digest{layer})
	if err != nil {
		t.Fatal(err)
	}
	if err := MountAll(mounts, root); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "mine")); err == nil {
		t.Error("kept what was written before the reboot")
	}
	if err := o.RemoveLayer(t.Context(), layer); !errors.Is(err, ErrInUse) {
		t.Errorf("RemoveLayer = %v", err)
	}
}

// TestPrepareFails has a snapshot that cannot be made: it must not hold its layers.
func TestPrepareFails(t *testing.T) {
	o := openTest(t, filepath.Join(scratch(t), "s"))
	layer := add(t, o, file("f", ""))
	if err := o.SealImage(t.Context(), []digest.Digest{layer}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(o.path("tmp")); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Prepare(t.Context(), "c1", []digest.Digest{layer}); err == nil {
		t.Error("prepared without a place for it")
	}
	if err := o.RemoveLayer(t.Context(), layer); err != nil {
		t.Errorf("RemoveLayer = %v", err)
	}
}

func TestMountOptions(t *testing.T) {
	o := openTest(t, filepath.Join(scratch(t), "s"))
	layer := add(t, o, dir(".", 0o755), file("f", ""))
	if err := o.SealImage(t.Context(), []digest.Digest{layer}); err != nil {
		t.Fatal(err)
	}
	mounts, err := o.Prepare(t.Context(), "c1", []digest.Digest{layer})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"lowerdir=" + o.path("layers", "sha256-"+layer.Encoded(), "fs"),
		"upperdir=" + o.path("roots/c1/fs"), "workdir=" + o.path("roots/c1/work"), "index=off", "volatile",
	}
	if len(mounts) != 1 || mounts[0].Type != "overlay" || !slices.Equal(mounts[0].Options, want) {
		t.Errorf("got %q, want %q", mounts, want)
	}
}

// TestMountWays mounts by each of the ways there are for kernels and paths of all kinds.
func TestMountWays(t *testing.T) {
	top := scratch(t)
	long := filepath.Join(top, strings.Repeat("l", 200), strings.Repeat("m", 200))
	target := filepath.Join(top, "target")
	ways := map[string]func(m mounting) error{
		"fsmount":  func(m mounting) error { return m.overlay(target) },
		"mount(2)": func(m mounting) error { return m.overlayByMount(target, mountpoint.MaxData) },
	}
	for _, base := range []string{filepath.Join(top, "short"), long} {
		var lowers []string
		for i := range 128 {
			lower := filepath.Join(base, fmt.Sprint(i))
			if err := os.MkdirAll(filepath.Join(lower, fmt.Sprint("in-", i)), 0o755); err != nil {
				t.Fatal(err)
			}
			lowers = append(lowers, lower)
		}
		for name, way := range ways {
			for _, n := range []int{1, 2, 128} {
				dir := t.TempDir()
				if err := errors.Join(os.MkdirAll(target, 0o755), os.Mkdir(dir+"/u", 0o755), os.Mkdir(dir+"/w", 0o755)); err != nil {
					t.Fatal(err)
				}
				m := Mount{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + strings.Join(lowers[:n], ":"), "upperdir=" + dir + "/u", "workdir=" + dir + "/w", "nodev"}}
				if err := way(parseMount(m)); err != nil {
					t.Errorf("%s, %d layers: %v", name, n, err)
					continue
				}
				if found, err := os.ReadDir(target); len(found) != n || err != nil {
					t.Errorf("%s, %d layers: sees %d, %v", name, n, len(found), err)
				}
				var st unix.Statfs_t
				if err := unix.Statfs(target, &st); err != nil || st.Flags&unix.ST_NODEV == 0 {
					t.Errorf("%s: flags %x, %v", name, st.Flags, err)
				}
				if err := Unmount(target); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

func TestMountAll(t *testing.T) {
	top := scratch(t)
	source, target := filepath.Join(top, "source"), filepath.Join(top, "target")
	if err := os.MkdirAll(filepath.Join(source, "in"), 0o755); err != nil {
		t.Fatal(err)
	}
	bind := Mount{Type: "bind", Source: source, Options: []string{"bind", "ro"}}
	bad := Mount{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + source + ":" + filepath.Join(top, "absent")}}
	if err := MountAll([]Mount{bind, bad}, target); err == nil {
		t.Error("mounted what is not there")
	}
	if n, err := mountedAt(target); n != 0 || err != nil {
		t.Errorf("a failure left %d mounts, %v", n, err)
	}
	if err := MountAll([]Mount{bind}, target); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(target, "new"), 0o755); !errors.Is(err, unix.EROFS) {
		t.Errorf("ro was not heeded: %v", err)
	}
	for range 2 { // one of two is there, then both
		if err := MountAll([]Mount{bind, bind}, target); err != nil {
			t.Fatal(err)
		}
		if n, err := mountedAt(target); n != 2 || err != nil {
			t.Errorf("%d mounts, %v", n, err)
		}
	}
	busy, err := os.Open(filepath.Join(target, "in"))
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for range 2 { // all of them, then none
		if err := Unmount(target); err != nil {
			t.Error(err)
		}
		if n, err := mountedAt(target); n != 0 || err != nil {
			t.Errorf("%d mounts, %v", n, err)
		}
	}
	if err := Unmount(filepath.Join(top, "absent/there")); err != nil {
		t.Error(err)
	}
	if err := MountAll(nil, "relative"); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

// A probe that was killed while it was mounted leaves its mount in tmp/: that goes, and
// so does the rest of the garbage.
func TestKilledProbe(t *testing.T) {
	dir := filepath.Join(scratch(t), "s")
	o := openTest(t, dir)
	probe := o.path("tmp", probePrefix+"1")
	for _, sub := range []string{"lower/inside", "upper", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(probe, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	mount := Mount{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + filepath.Join(probe, "lower"), "upperdir=" + filepath.Join(probe, "upper"), "workdir=" + filepath.Join(probe, "work"),
	}}
	if err := MountAll([]Mount{mount}, filepath.Join(probe, "root")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(o.path("trash", "other"), 0o700); err != nil {
		t.Fatal(err)
	}
	o = openTest(t, dir)
	o.sweeping.Wait()
	for _, sub := range []string{"tmp", "trash"} {
		if left, err := os.ReadDir(o.path(sub)); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", sub, left, err)
		}
	}
}
