package snapshot

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The part of the contract that says what is in a tree.

func testMetadata(t *testing.T, d Driver, _ func() Driver) {
	long := strings.Repeat("n", 255)
	deep := strings.Repeat(strings.Repeat("d", 99)+"/", 20) + "leaf"
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_raw
	layer := add(t, d,
		dir("./", 0o751).with(func(h *tar.Header) { h.Uid = 7 }),
		dir("./bin", 0o755),
		file("./bin/su", "su").with(func(h *tar.Header) { h.Mode = 0o4755; h.Uid = 0; h.Gid = 42 }),
		file("/bin/ping", "ping").xattr("security.capability", capability),
		hardlink("bin/ping6", "./bin/ping"),
		symlink("bin/sh", "/bin/busybox"),
		hardlink("bin/sh2", "/bin/sh"),
		dir("tmp", 0o1777),
		file("tmp/big-uid", "").with(func(h *tar.Header) { h.Uid = 4294967294; h.Gid = 2000000000 }),
		file("attrs", "x").xattr("user.note", "a=b\n").xattr("trusted.overlay.redirect", "/etc").
			xattr("user.overlay.opaque", "y").xattr("trusted.mine", "x").xattr("security.selinux", "x"),
		dir("dirattrs", 0o700).xattr("user.note", "dir").xattr("trusted.overlay.opaque", "y"),
		file("dirattrs/in", "in"),
		dir("dev", 0o755),
		entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3}},
		entry{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "dev/loop", Mode: 0o600, Devmajor: 7, Devminor: 300}},
		entry{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "dev/fifo", Mode: 0o620, Gid: 5}},
		file(long, "long"),
		file("twice", "first"), file("twice", "second"),
		dir("was-dir", 0o755), file("was-dir/in", ""), file("was-dir", "now a file"),
		file("was-file", ""), dir("was-file", 0o755),
		symlink("was-link", "bin"), dir("was-link", 0o700),
	)
	root := mounted(t, d, "c1", layer)
	same(t, describe(t, root), []string{
		". drwxr-x--x 7:0",
		"attrs -rw-r--r-- 0:0 \"x\" user.note=\"a=b\\n\"",
		"bin drwxr-xr-x 0:0",
		"bin/ping -rw-r--r-- 0:0 \"ping\" =bin/ping security.capability=" + fmt.Sprintf("%q", capability),
		"bin/ping6 -rw-r--r-- 0:0 \"ping\" =bin/ping security.capability=" + fmt.Sprintf("%q", capability),
		"bin/sh Lrwxrwxrwx 0:0 -> /bin/busybox =bin/sh",
		"bin/sh2 Lrwxrwxrwx 0:0 -> /bin/busybox =bin/sh",
		"bin/su urwxr-xr-x 0:42 \"su\"",
		"dev drwxr-xr-x 0:0",
		"dev/fifo prw--w---- 0:5",
		"dev/loop Drw------- 0:0 7:300",
		"dev/null Dcrw-rw-rw- 0:0 1:3",
		"dirattrs drwx------ 0:0 user.note=\"dir\"",
		"dirattrs/in -rw-r--r-- 0:0 \"in\"",
		long + " -rw-r--r-- 0:0 \"long\"",
		"tmp dtrwxrwxrwx 0:0",
		"tmp/big-uid -rw-r--r-- 4294967294:2000000000 \"\"",
		"twice -rw-r--r-- 0:0 \"second\"",
		"was-dir -rw-r--r-- 0:0 \"now a file\"",
		"was-file drwxr-xr-x 0:0",
		"was-link drwx------ 0:0",
	})

	root = mounted(t, d, "c2", add(t, d, file(deep, "leaf")))
	if got, err := os.ReadFile(filepath.Join(root, deep)); err != nil || string(got) != "leaf" {
		t.Errorf("deep file: %q, %v", got, err)
	}

	sparse := make([]byte, 40<<20)
	copy(sparse[20<<20:], "island")
	root = mounted(t, d, "c3", add(t, d, file("sparse", string(sparse)), file("zeros", string(sparse[:1<<20])), file("tail", "x"+string(sparse[:300<<10]))))
	for name, want := range map[string][]byte{"sparse": sparse, "zeros": sparse[:1<<20], "tail": append([]byte("x"), sparse[:300<<10]...)} {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(want), err)
		}
	}
}

func testStack(t *testing.T, d Driver, _ func() Driver) {
	base := add(t, d, dir(".", 0o755),
		dir("etc", 0o755), file("etc/keep", "base"), file("etc/change", "base"), file("etc/delete", "base"),
		dir("opaque", 0o755), file("opaque/old", ""), dir("opaque/sub", 0o755), file("opaque/sub/old", ""),
		dir("gone", 0o755), file("gone/x", ""),
		dir("reborn", 0o755), file("reborn/old", ""),
		dir("reborn2", 0o755), file("reborn2/old", ""),
		dir("implied", 0o755), file("implied/old", ""),
		file("same-layer", "base"), symlink("lib", "usr/lib"), dir("usr", 0o755), dir("usr/lib", 0o755), file("usr/lib/a", "a"))
	top := add(t, d, dir(".", 0o755),
		dir("etc", 0o755), file("etc/change", "top"), file("etc/.wh.delete", ""), file("etc/new", "top"),
		dir("opaque", 0o700), file("opaque/before", ""), file("opaque/.wh..wh..opq", ""), file("opaque/after", ""),
		file(".wh.gone", ""),
		file(".wh.reborn", ""), dir("reborn", 0o755), file("reborn/new", ""),
		dir("reborn2", 0o755), file("reborn2/new", ""), file(".wh.reborn2", ""),
		file(".wh.implied", ""), file("implied/new", ""),
		file("same-layer", "top"), file(".wh.same-layer", ""),
		file(".wh..wh.plnk/1.2", "aufs"), file("etc/.wh..wh.orph", ""),
		file(".wh.never-was", ""), file("lib/hides-the-link", "x"))
	root := mounted(t, d, "c1", base, top)
	same(t, describe(t, root), []string{
		". drwxr-xr-x 0:0",
		"etc drwxr-xr-x 0:0", "etc/change -rw-r--r-- 0:0 \"top\"", "etc/keep -rw-r--r-- 0:0 \"base\"", "etc/new -rw-r--r-- 0:0 \"top\"",
		"opaque drwx------ 0:0", "opaque/after -rw-r--r-- 0:0 \"\"", "opaque/before -rw-r--r-- 0:0 \"\"",
		"reborn drwxr-xr-x 0:0", "reborn/new -rw-r--r-- 0:0 \"\"",
		"reborn2 drwxr-xr-x 0:0", "reborn2/new -rw-r--r-- 0:0 \"\"",
		"implied drwxr-xr-x 0:0 at other time", "implied/new -rw-r--r-- 0:0 \"\"",
		"same-layer -rw-r--r-- 0:0 \"top\"",
		"lib drwxr-xr-x 0:0 at other time", "lib/hides-the-link -rw-r--r-- 0:0 \"x\"",
		"usr drwxr-xr-x 0:0", "usr/lib drwxr-xr-x 0:0", "usr/lib/a -rw-r--r-- 0:0 \"a\"",
	})

	// The container's changes are its own.
	if err := os.WriteFile(filepath.Join(root, "etc/keep"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := mounted(t, d, "c2", base, top)
	if got, _ := os.ReadFile(filepath.Join(other, "etc/keep")); string(got) != "base" {
		t.Errorf("another container sees %q", got)
	}
	alone := mounted(t, d, "c3", base)
	if got, _ := os.ReadFile(filepath.Join(alone, "gone/x")); got == nil {
		t.Error("the base layer alone lacks what a layer above removes")
	}
}

func testImplied(t *testing.T, d Driver, _ func() Driver) {
	base := add(t, d, dir("./", 0o711).with(func(h *tar.Header) { h.Gid = 3 }),
		dir("tmp", 0o1777), dir("a", 0o750).with(func(h *tar.Header) { h.Uid = 5 }),
		dir("a/b", 0o700).xattr("user.note", "b"), file("a/b/base", ""),
		dir("cut", 0o700), dir("cut/sub", 0o700), dir("covered", 0o700), dir("plain", 0o755))
	middle := add(t, d, file("tmp/x", ""), file("a/b/middle", ""), dir("cut", 0o755), file("cut/.wh..wh..opq", ""), file("covered", ""))
	top := add(t, d, file("a/b/top", ""), file("cut/sub/top", ""), file("covered/top", ""), file("plain/top", ""), file("own/top", ""))
	root := mounted(t, d, "c1", base, middle, top)
	got := describe(t, root)
	for i, line := range got { // what the base says, and what nobody says, differ in the date alone
		if line == "plain drwxr-xr-x 0:0" || line == "cut drwxr-xr-x 0:0" {
			got[i] += " at other time"
		}
	}
	same(t, got, []string{
		". drwx--x--x 0:3",
		"a drwxr-x--- 5:0", "a/b drwx------ 0:0 user.note=\"b\"",
		"a/b/base -rw-r--r-- 0:0 \"\"", "a/b/middle -rw-r--r-- 0:0 \"\"", "a/b/top -rw-r--r-- 0:0 \"\"",
		"covered drwxr-xr-x 0:0 at other time", "covered/top -rw-r--r-- 0:0 \"\"",
		"cut drwxr-xr-x 0:0 at other time", "cut/sub drwxr-xr-x 0:0 at other time", "cut/sub/top -rw-r--r-- 0:0 \"\"",
		"own drwxr-xr-x 0:0 at other time", "own/top -rw-r--r-- 0:0 \"\"",
		"plain drwxr-xr-x 0:0 at other time", "plain/top -rw-r--r-- 0:0 \"\"",
		"tmp dtrwxrwxrwx 0:0", "tmp/x -rw-r--r-- 0:0 \"\"",
	})
}

func testIdleWhiteouts(t *testing.T, d Driver, _ func() Driver) {
	base := add(t, d, dir(".", 0o755), dir("a", 0o700), file("a/.wh.never", ""), file("a/x", ""), file("b/c/.wh.never", ""), file(".wh.never", ""))
	top := add(t, d, dir(".", 0o755), dir("d", 0o750), file("d/.wh.never", ""), dir("e", 0o755),
		dir("e/f", 0o755), file("e/f/.wh..wh..opq", ""), entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: "e/f/never"}})
	root := mounted(t, d, "c1", base, top)
	same(t, describe(t, root), []string{
		". drwxr-xr-x 0:0", "a drwx------ 0:0", "a/x -rw-r--r-- 0:0 \"\"",
		"b drwxr-xr-x 0:0 at other time", "b/c drwxr-xr-x 0:0 at other time",
		"d drwxr-x--- 0:0", "e drwxr-xr-x 0:0", "e/f drwxr-xr-x 0:0",
	})
	if err := os.Remove(filepath.Join(root, "d")); err != nil {
		t.Error(err)
	}
}

func testOpaqueRoot(t *testing.T, d Driver, _ func() Driver) {
	base := add(t, d, file("old", ""))
	cut := add(t, d, dir(".", 0o755), file(".wh..wh..opq", ""), file("new", ""))
	top := add(t, d, dir(".", 0o755), file("top", ""))
	same(t, describe(t, mounted(t, d, "c1", base, cut, top)), []string{
		". drwxr-xr-x 0:0", "new -rw-r--r-- 0:0 \"\"", "top -rw-r--r-- 0:0 \"\"",
	})
}
