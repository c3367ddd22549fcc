package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func TestOverlayContract(t *testing.T) {
	testDriver(t, func(t *testing.T, dir string) Driver {
		d, err := Open(t.Context(), "overlay", dir)
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
}

// testDriver is what every driver must do. open opens the driver in dir, which may have
// been open before: that is a restart of the daemon.
func testDriver(t *testing.T, open func(t *testing.T, dir string) Driver) {
	tests := []struct {
		name string
		test func(t *testing.T, d Driver, reopen func() Driver)
	}{
		{"a layer keeps all that its archive says", testMetadata},
		{"upper layers change lower ones", testStack},
		{"implied directories take after lower layers", testImplied},
		{"an opaque root hides all below", testOpaqueRoot},
		{"a layer may come twice in a chain", testTwice},
		{"an image may have no layers", testNoLayers},
		{"an image may have 127 layers", testManyLayers},
		{"a layer is added once", testAddTwice},
		{"a layer that fails leaves nothing", testAddFails},
		{"verify sees the whole stream read and decides", testVerify},
		{"a layer in use stays", testInUse},
		{"what is absent can be removed", testAbsent},
		{"prepare may be repeated", testPrepareTwice},
		{"prepare needs the seal and the layers", testPrepareNeeds},
		{"bad IDs are refused", testBadIDs},
		{"usage is that of the writable layer", testUsage},
		{"all is there after a restart", testRestart},
		{"many may call at once", testConcurrent},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(scratch(t), "snapshots")
			tt.test(t, open(t, dir), func() Driver { return open(t, dir) })
		})
	}
}

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
	same(t, describe(t, root), []string{
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

func testOpaqueRoot(t *testing.T, d Driver, _ func() Driver) {
	base := add(t, d, file("old", ""))
	cut := add(t, d, dir(".", 0o755), file(".wh..wh..opq", ""), file("new", ""))
	top := add(t, d, dir(".", 0o755), file("top", ""))
	same(t, describe(t, mounted(t, d, "c1", base, cut, top)), []string{
		". drwxr-xr-x 0:0", "new -rw-r--r-- 0:0 \"\"", "top -rw-r--r-- 0:0 \"\"",
	})
}

func testTwice(t *testing.T, d Driver, _ func() Driver) {
	empty := add(t, d)
	x := add(t, d, file("f", "x"))
	y := add(t, d, file("f", "y"), file("g", "y"))
	same(t, describe(t, mounted(t, d, "c1", x, empty, y, empty, x)), []string{
		". drwxr-xr-x 0:0 at other time", "f -rw-r--r-- 0:0 \"x\"", "g -rw-r--r-- 0:0 \"y\"",
	})
}

func testNoLayers(t *testing.T, d Driver, _ func() Driver) {
	root := mounted(t, d, "c1")
	if err := os.Mkdir(filepath.Join(root, "new"), 0o700); err != nil {
		t.Error(err)
	}
}

func testManyLayers(t *testing.T, d Driver, _ func() Driver) {
	var layers []digest.Digest
	for i := range 127 {
		layers = append(layers, add(t, d, file(fmt.Sprintf("f%d", i), ""), file("last", fmt.Sprint(i))))
	}
	root := mounted(t, d, strings.Repeat("c", 64), layers...)
	if got, _ := os.ReadFile(filepath.Join(root, "last")); string(got) != "126" {
		t.Errorf("last is %q", got)
	}
	if _, err := os.Lstat(filepath.Join(root, "f0")); err != nil {
		t.Error(err)
	}
}

// unread fails the test that reads it.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the archive was read")
	return 0, io.EOF
}

func testAddTwice(t *testing.T, d Driver, _ func() Driver) {
	id := add(t, d, file("f", "x"))
	if !d.HasLayer(id) || d.HasLayer(digest.FromString("other")) || d.HasLayer("sha256:..") {
		t.Error("HasLayer is wrong")
	}
	if err := d.AddLayer(t.Context(), id, unread{t}, func() error { return errors.New("called") }); err != nil {
		t.Error(err)
	}
	infos, err := d.ListLayers(t.Context())
	if err != nil || len(infos) != 1 || infos[0].DiffID != id || infos[0].Bytes == 0 || infos[0].Inodes < 2 {
		t.Errorf("ListLayers = %+v, %v", infos, err)
	}
}

func testAddFails(t *testing.T, d Driver, reopen func() Driver) {
	errBoom := errors.New("boom")
	good := archive(t, dir("d", 0o755), file("d/f", strings.Repeat("x", 100<<10)))
	id := digest.FromBytes(good)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	tests := []struct {
		name   string
		ctx    context.Context
		r      io.Reader
		verify func() error
		want   error
	}{
		{"cut within a file", t.Context(), bytes.NewReader(good[:50<<10]), nil, ErrCorrupt},
		{"cut within a header", t.Context(), bytes.NewReader(good[:1124]), nil, ErrCorrupt},
		{"not a tar", t.Context(), strings.NewReader(strings.Repeat("no tar ", 1000)), nil, ErrCorrupt},
		{"the reader fails", t.Context(), io.MultiReader(bytes.NewReader(good[:50<<10]), failing{errBoom}), nil, errBoom},
		{"the reader fails after the end", t.Context(), io.MultiReader(bytes.NewReader(good), failing{errBoom}), nil, errBoom},
		{"the digest is wrong", t.Context(), bytes.NewReader(good), func() error { return errBoom }, errBoom},
		{"the caller is gone", ended, bytes.NewReader(good), nil, context.Canceled},
	}
	for _, tt := range tests {
		err := d.AddLayer(tt.ctx, id, tt.r, tt.verify)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if errors.Is(tt.want, errBoom) && errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v blames the archive", tt.name, err)
		}
		if infos, err := d.ListLayers(t.Context()); d.HasLayer(id) || len(infos) != 0 || err != nil {
			t.Errorf("%s: left %v, %v", tt.name, infos, err)
		}
	}
	if infos, _ := reopen().ListLayers(t.Context()); len(infos) != 0 {
		t.Errorf("after a restart: %v", infos)
	}
	if err := d.AddLayer(t.Context(), id, bytes.NewReader(good), nil); err != nil {
		t.Errorf("the next attempt: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func testVerify(t *testing.T, d Driver, _ func() Driver) {
	data := append(archive(t, file("f", "x")), bytes.Repeat([]byte("padding"), 50_000)...)
	id := digest.FromBytes(data)
	hash := digest.SHA256.Digester()
	called := 0
	err := d.AddLayer(t.Context(), id, io.TeeReader(bytes.NewReader(data), hash.Hash()), func() error {
		called++
		if d.HasLayer(id) {
			t.Error("seen before it was verified")
		}
		if hash.Digest() != id {
			return errors.New("not all was read")
		}
		return nil
	})
	if err != nil || called != 1 || !d.HasLayer(id) {
		t.Errorf("%v, called %d times", err, called)
	}
}

func testInUse(t *testing.T, d Driver, reopen func() Driver) {
	a, b, c := add(t, d, file("a", "")), add(t, d, file("b", "")), add(t, d, file("c", ""))
	chain := []digest.Digest{a, b}
	if err := d.SealImage(t.Context(), chain); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Prepare(t.Context(), "c1", chain); err != nil {
		t.Fatal(err)
	}
	for _, d := range []Driver{d, reopen()} {
		for _, id := range chain {
			if err := d.RemoveLayer(t.Context(), id); !errors.Is(err, ErrInUse) || !d.HasLayer(id) {
				t.Errorf("RemoveLayer = %v", err)
			}
		}
		if err := d.UnsealImage(t.Context(), chain); !errors.Is(err, ErrInUse) {
			t.Errorf("UnsealImage = %v", err)
		}
		if err := d.RemoveLayer(t.Context(), c); err != nil || d.HasLayer(c) {
			t.Errorf("RemoveLayer of another = %v", err)
		}
	}
	d = reopen()
	if err := errors.Join(d.Remove(t.Context(), "c1"), d.UnsealImage(t.Context(), chain), d.RemoveLayer(t.Context(), a), d.RemoveLayer(t.Context(), b)); err != nil {
		t.Error(err)
	}
	if infos, err := d.ListLayers(t.Context()); len(infos) != 0 || err != nil {
		t.Errorf("left %v, %v", infos, err)
	}
}

func testAbsent(t *testing.T, d Driver, _ func() Driver) {
	id := digest.FromString("absent")
	if err := errors.Join(d.RemoveLayer(t.Context(), id), d.Remove(t.Context(), "absent"), d.UnsealImage(t.Context(), []digest.Digest{id})); err != nil {
		t.Error(err)
	}
	if _, err := d.Usage(t.Context(), "absent"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Usage = %v", err)
	}
	if ids, err := d.ListRoots(t.Context()); len(ids) != 0 || err != nil {
		t.Errorf("ListRoots = %v, %v", ids, err)
	}
	if err := d.SealImage(t.Context(), []digest.Digest{id}); !errors.Is(err, ErrNotFound) {
		t.Errorf("SealImage = %v", err)
	}
}

func testPrepareTwice(t *testing.T, d Driver, _ func() Driver) {
	a, b := add(t, d, file("a", "")), add(t, d, file("b", ""))
	root := mounted(t, d, "c1", a)
	if err := os.WriteFile(filepath.Join(root, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mounts, err := d.Prepare(t.Context(), "c1", []digest.Digest{a})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // still mounted, then mounted anew
		if err := MountAll(mounts, root); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(root, "mine")); err != nil {
			t.Error(err)
		}
		if err := Unmount(root); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(root, "a")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("still mounted: %v", err)
		}
	}
	if err := d.SealImage(t.Context(), []digest.Digest{b}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Prepare(t.Context(), "c1", []digest.Digest{b}); !errors.Is(err, ErrInUse) {
		t.Errorf("with other layers: %v", err)
	}
	if err := d.RemoveLayer(t.Context(), b); err != nil {
		t.Errorf("a refused snapshot holds its layer: %v", err)
	}
}

func testPrepareNeeds(t *testing.T, d Driver, _ func() Driver) {
	a := add(t, d, file("a", ""))
	chain := []digest.Digest{a}
	if _, err := d.Prepare(t.Context(), "c1", chain); !errors.Is(err, ErrNotFound) {
		t.Errorf("not sealed: %v", err)
	}
	if err := d.SealImage(t.Context(), chain); err != nil {
		t.Fatal(err)
	}
	if err := d.RemoveLayer(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Prepare(t.Context(), "c1", chain); !errors.Is(err, ErrNotFound) {
		t.Errorf("without a layer: %v", err)
	}
	if ids, _ := d.ListRoots(t.Context()); len(ids) != 0 {
		t.Errorf("left %v", ids)
	}
}

func testBadIDs(t *testing.T, d Driver, _ func() Driver) {
	for _, id := range []string{"", ".", "..", "../x", "a/b", "a:b", "a,b", "-a", "a\x00", strings.Repeat("a", 65), "ä"} {
		if _, err := d.Prepare(t.Context(), id, nil); !errors.Is(err, ErrInvalid) {
			t.Errorf("Prepare(%q) = %v", id, err)
		}
		if err := d.Remove(t.Context(), id); !errors.Is(err, ErrInvalid) {
			t.Errorf("Remove(%q) = %v", id, err)
		}
		if _, err := d.Usage(t.Context(), id); !errors.Is(err, ErrInvalid) {
			t.Errorf("Usage(%q) = %v", id, err)
		}
	}
	for _, id := range []digest.Digest{"", "sha256:../../x", "sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		if err := d.AddLayer(t.Context(), id, unread{t}, nil); !errors.Is(err, ErrInvalid) {
			t.Errorf("AddLayer(%q) = %v", id, err)
		}
		if err := d.RemoveLayer(t.Context(), id); !errors.Is(err, ErrInvalid) {
			t.Errorf("RemoveLayer(%q) = %v", id, err)
		}
		if err := d.SealImage(t.Context(), []digest.Digest{id}); !errors.Is(err, ErrInvalid) {
			t.Errorf("SealImage(%q) = %v", id, err)
		}
	}
}

func testUsage(t *testing.T, d Driver, _ func() Driver) {
	root := mounted(t, d, "c1", add(t, d, file("base", strings.Repeat("x", 1<<20))))
	before, err := d.Usage(t.Context(), "c1")
	if err != nil || before.Bytes > 64<<10 {
		t.Fatalf("Usage = %+v, %v", before, err)
	}
	if err := os.WriteFile(filepath.Join(root, "f"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(root, "f"), filepath.Join(root, "g")); err != nil {
		t.Fatal(err)
	}
	after, err := d.Usage(t.Context(), "c1")
	if err != nil || after.Inodes != before.Inodes+1 || after.Bytes < before.Bytes+1<<20 || after.Bytes > before.Bytes+3<<19 {
		t.Errorf("Usage = %+v after %+v, %v", after, before, err)
	}
}

func testRestart(t *testing.T, d Driver, reopen func() Driver) {
	a := add(t, d, file("a", "a"))
	root := mounted(t, d, "c1", a)
	if err := os.WriteFile(filepath.Join(root, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d = reopen()
	if !d.HasLayer(a) {
		t.Error("the layer is gone")
	}
	if ids, err := d.ListRoots(t.Context()); err != nil || !slices.Equal(ids, []string{"c1"}) {
		t.Errorf("ListRoots = %v, %v", ids, err)
	}
	mounts, err := d.Prepare(t.Context(), "c1", []digest.Digest{a})
	if err != nil {
		t.Fatal(err)
	}
	var before, after unix.Stat_t
	if err := unix.Stat(root, &before); err != nil {
		t.Fatal(err)
	}
	if err := MountAll(mounts, root); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(root, &after); err != nil || before.Dev != after.Dev {
		t.Errorf("mounted a second time, or %v", err)
	}
}

func testConcurrent(t *testing.T, d Driver, _ func() Driver) {
	data := archive(t, file("f", strings.Repeat("x", 1<<20)))
	id := digest.FromBytes(data)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			if err := d.AddLayer(t.Context(), id, bytes.NewReader(data), nil); err != nil {
				t.Error(err)
			}
			if err := d.SealImage(t.Context(), []digest.Digest{id}); err != nil {
				t.Error(err)
			}
			name := fmt.Sprintf("c%d", i)
			if _, err := d.Prepare(t.Context(), name, []digest.Digest{id}); err != nil {
				t.Error(err)
			}
			if err := d.RemoveLayer(t.Context(), id); !errors.Is(err, ErrInUse) {
				t.Errorf("RemoveLayer = %v", err)
			}
			if err := d.Remove(t.Context(), name); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if ids, err := d.ListRoots(t.Context()); len(ids) != 0 || err != nil {
		t.Errorf("left %v, %v", ids, err)
	}
}
