package snapshot

import (
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

func TestErofsContract(t *testing.T) {
	testDriver(t, func(t *testing.T, dir string) Driver {
		d, err := Open(t.Context(), "erofs", dir)
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
}

func TestNativeContract(t *testing.T) {
	testDriver(t, func(t *testing.T, dir string) Driver {
		d, err := Open(t.Context(), "native", dir)
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
}

func TestBtrfsContract(t *testing.T) {
	store := filepath.Join(fileSystem(t, 512<<20, "", "mkfs.btrfs", "-q"), "s")
	testDriver(t, func(t *testing.T, dir string) Driver {
		// Each test has a store of its own, on the one file system.
		d, err := Open(t.Context(), "btrfs", filepath.Join(store, filepath.Base(filepath.Dir(filepath.Dir(dir)))))
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
}

// TestErofsLoopContract is the same as on kernels that mount no files.
func TestErofsLoopContract(t *testing.T) {
	testDriver(t, func(t *testing.T, dir string) Driver {
		d, err := Open(t.Context(), "erofs", dir)
		if err != nil {
			t.Fatal(err)
		}
		d.(*overlay).format.(*blobs).loops = true
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
		{"whiteouts of nothing are not seen", testIdleWhiteouts},
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
		{"owners are those of a user namespace", testIDMap},
		{"an image serves several user namespaces at once", testIDMapShared},
		{"a user namespace does not change", testIDMapRefused},
		{"an image of many layers has a user namespace", testIDMapManyLayers},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(scratch(t), "snapshots")
			tt.test(t, open(t, dir), func() Driver { return open(t, dir) })
		})
	}
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
		{"the reader fails in a header", t.Context(), io.MultiReader(bytes.NewReader(good[:1124]), failing{errBoom}), nil, errBoom},
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
	held, err := os.Open(root) // so that the mount's number is not given away
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := MountAll(mounts, root); err != nil {
		t.Fatal(err)
	}
	var before, after unix.Statx_t
	if err := errors.Join(
		unix.Statx(int(held.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &before),
		unix.Statx(unix.AT_FDCWD, root, 0, unix.STATX_MNT_ID, &after),
	); err != nil || before.Mnt_id != after.Mnt_id {
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
