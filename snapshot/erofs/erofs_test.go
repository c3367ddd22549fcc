package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func file(size uint64, e Extent) *Node {
	return &Node{Mode: KindRegular | 0o644, Mtime: time.Unix(1700000000, 123456789), Size: size, Data: e}
}

func dir(children map[string]*Node) *Node {
	if children == nil {
		children = map[string]*Node{}
	}
	return &Node{Mode: KindDir | 0o755, Mtime: time.Unix(1, 0), Children: children}
}

// tree has something of each kind, over two devices.
func tree() (*Node, []Device) {
	linked := file(5, Extent{2, 0})
	long := dir(nil)
	for i := range 3000 { // several blocks of names
		long.Children[fmt.Sprintf("%0*d", 1+i%200, i)] = file(0, Extent{})
	}
	attributes := map[string]string{"user.a": "", "user.b": strings.Repeat("x", 5000), "trusted.overlay.opaque": "y", "security.capability": "\x01\x00\x00\x02\x00\x04" + strings.Repeat("\x00", 14)}
	root := dir(map[string]*Node{
		"one":     linked,
		"empty":   file(0, Extent{}),
		"big":     file(5*BlockSize+7, Extent{1, 3}),
		"fifo":    {Mode: KindFifo | 0o600, UID: 4000000000, GID: 70000, Mtime: time.Unix(0, 1)},
		"null":    {Mode: KindChar | 0o666, Rdev: Rdev(1, 3), Mtime: time.Unix(-5, 0)},
		"loop":    {Mode: KindBlock | 0o660, Rdev: Rdev(4095, 1<<20-1), Mtime: time.Unix(1<<33, 0)},
		"gone":    {Mode: KindChar, Mtime: time.Unix(0, 0)},
		"link":    {Mode: KindSymlink | 0o777, Target: "one", Mtime: time.Unix(7, 0)},
		"longest": {Mode: KindSymlink | 0o777, Target: strings.Repeat("y", BlockSize-1), Mtime: time.Unix(7, 0)},
		"tagged":  {Mode: KindSymlink | 0o777, Target: strings.Repeat("z", 300), Mtime: time.Unix(7, 0), Xattrs: map[string]string{"trusted.t": strings.Repeat("t", 3900)}},
		"sub":     dir(map[string]*Node{"two": linked, "deep": dir(map[string]*Node{"er": dir(nil)})}),
		"many":    long,
		"marked":  {Mode: KindDir | 0o7777, Mtime: time.Unix(3, 0), Children: map[string]*Node{}, Xattrs: attributes},
	})
	return root, []Device{{Tag: "sha256:one", Blocks: 100}, {Tag: "sha256:two", Blocks: 1}}
}

func written(t *testing.T, root *Node, devices []Device) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, root, devices); err != nil {
		t.Fatal(err)
	}
	if b.Len()%BlockSize != 0 {
		t.Errorf("%d bytes are no whole number of blocks", b.Len())
	}
	return b.Bytes()
}

// TestRead: what was written is read back, by a reader that somebody else wrote too.
func TestRead(t *testing.T) {
	root, devices := tree()
	image := written(t, root, devices)
	if again := written(t, root, devices); !bytes.Equal(image, again) {
		t.Error("the same tree gives other bytes")
	}
	for name, read := range map[string]func() (*Node, error){
		"ours": func() (*Node, error) { return Read(image) }, "library": func() (*Node, error) { return readByLibrary(bytes.NewReader(image)) },
	} {
		back, err := read()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		equal(t, ".", back, root)
		if back.Children["one"] != back.Children["sub"].Children["two"] {
			t.Errorf("%s: a hard link is another file", name)
		}
	}
}

// TestReadDamaged: a tree with a byte changed is an error or another tree, and no more; one
// that is cut short is an error.
func TestReadDamaged(t *testing.T) {
	root, devices := tree()
	delete(root.Children, "many")
	image := written(t, root, devices)
	for i := range image {
		was := image[i]
		for _, b := range []byte{was ^ 1, was ^ 0x80, 0, 0xff} {
			image[i] = b
			_, _ = Read(image)
		}
		image[i] = was
	}
	for _, n := range []int{0, superOffset, superOffset + superSize, BlockSize, len(image) / 2} {
		if _, err := Read(image[:n]); !errors.Is(err, errDamaged) {
			t.Errorf("%d of %d bytes: %v", n, len(image), err)
		}
	}
}

// BenchmarkRead reads a tree of 20,000 files in 800 directories, four deep.
func BenchmarkRead(b *testing.B) {
	root := dir(nil)
	for i := range 800 {
		at := root
		for _, name := range []string{"usr", fmt.Sprint("share", i%20), fmt.Sprint("package", i)} {
			if at.Children[name] == nil {
				at.Children[name] = dir(nil)
			}
			at = at.Children[name]
		}
		for j := range 25 {
			at.Children[fmt.Sprintf("a-file-of-some-name-%d", j)] = file(uint64(100*j), Extent{1, uint32(i)})
		}
	}
	var image bytes.Buffer
	if err := Write(&image, root, []Device{{Blocks: 1000}}); err != nil {
		b.Fatal(err)
	}
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			if _, err := Read(image.Bytes()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("library", func(b *testing.B) {
		for b.Loop() {
			if _, err := readByLibrary(bytes.NewReader(image.Bytes())); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func equal(t *testing.T, path string, got, want *Node) {
	t.Helper()
	g, w := *got, *want
	g.Children, w.Children = nil, nil
	if len(g.Xattrs) == 0 && len(w.Xattrs) == 0 {
		g.Xattrs, w.Xattrs = nil, nil
	}
	if !g.Mtime.Equal(w.Mtime) {
		t.Errorf("%s: %v, want %v", path, g.Mtime, w.Mtime)
	}
	g.Mtime = w.Mtime
	if !reflect.DeepEqual(g, w) {
		t.Errorf("%s: %+v\nwant %+v", path, g, w)
	}
	if len(got.Children) != len(want.Children) {
		t.Errorf("%s: %d names, want %d", path, len(got.Children), len(want.Children))
	}
	for name, child := range want.Children {
		if have := got.Children[name]; have == nil {
			t.Errorf("%s/%s: not there", path, name)
		} else {
			equal(t, filepath.Join(path, name), have, child)
		}
	}
}

// TestKernel: the kernel sees the same tree, with the bytes of the devices.
func TestKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	root, devices := tree()
	dir := t.TempDir()
	put := func(name string, data []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	one := bytes.Repeat([]byte("0123456789abcdef"), 100*BlockSize/16)
	copy(one[3*BlockSize:], "it begins here")
	image, first, second := put("image", written(t, root, devices)), put("one", one), put("two", append([]byte("hello"), make([]byte, BlockSize-5)...))
	at := filepath.Join(dir, "at")
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	err := unix.Mount(image, at, "erofs", unix.MS_RDONLY, "device="+first+",device="+second)
	if err == unix.ENODEV || err == unix.ENOTBLK {
		t.Skipf("this kernel mounts no EROFS from files: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
	seen(t, at, root)
	for name, want := range map[string]string{"one": "hello", "sub/two": "hello", "big": string(one[3*BlockSize : 8*BlockSize+7]), "empty": ""} {
		got, err := os.ReadFile(filepath.Join(at, name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(want))
		}
	}
	var a, b unix.Stat_t
	if err := unix.Stat(at+"/one", &a); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(at+"/sub/two", &b); err != nil || a.Ino != b.Ino || a.Nlink != 2 {
		t.Errorf("a hard link: %d and %d, %d links (%v)", a.Ino, b.Ino, a.Nlink, err)
	}
}

// seen compares what is at path with the node.
func seen(t *testing.T, path string, want *Node) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Error(err)
		return
	}
	got := Node{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Size: want.Size, Data: want.Data, Rdev: Rdev(unix.Major(st.Rdev), unix.Minor(st.Rdev)),
		Mtime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec), Xattrs: map[string]string{}, Children: want.Children}
	if st.Mode&KindMask == KindRegular && uint64(st.Size) != want.Size {
		t.Errorf("%s: %d bytes, want %d", path, st.Size, want.Size)
	}
	if st.Mode&KindMask == KindSymlink {
		var err error
		if got.Target, err = os.Readlink(path); err != nil {
			t.Error(err)
		}
	}
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, names)
	if err != nil {
		t.Errorf("%s: %v", path, err)
	}
	for name := range strings.SplitSeq(string(names[:n]), "\x00") {
		value := make([]byte, 64<<10)
		if name == "" {
			continue
		}
		m, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			t.Errorf("%s: %s: %v", path, name, err)
			continue
		}
		got.Xattrs[name] = string(value[:m])
	}
	found, err := os.ReadDir(path)
	if want.IsDir() && (err != nil || len(found) != len(want.Children)) {
		t.Errorf("%s: %d names, want %d (%v)", path, len(found), len(want.Children), err)
	}
	equal(t, path, &got, want)
	for name, child := range want.Children {
		seen(t, filepath.Join(path, name), child)
	}
}

// TestRefused: what the format has no place for is an error, and nothing is written of it
// that looks like a file system.
func TestRefused(t *testing.T) {
	loop := dir(nil)
	loop.Children["a"], loop.Children["b"] = dir(nil), nil
	loop.Children["b"] = loop.Children["a"]
	for name, root := range map[string]*Node{
		"a file as root":        file(0, Extent{}),
		"a name with a slash":   dir(map[string]*Node{"a/b": file(0, Extent{})}),
		"no name":               dir(map[string]*Node{"": file(0, Extent{})}),
		"dots":                  dir(map[string]*Node{"..": file(0, Extent{})}),
		"a long name":           dir(map[string]*Node{strings.Repeat("n", 256): file(0, Extent{})}),
		"a directory twice":     loop,
		"no device":             dir(map[string]*Node{"f": file(1, Extent{})}),
		"a device too many":     dir(map[string]*Node{"f": file(1, Extent{2, 0})}),
		"beyond the device":     dir(map[string]*Node{"f": file(BlockSize+1, Extent{1, 9})}),
		"a link to nothing":     dir(map[string]*Node{"l": {Mode: KindSymlink}}),
		"a link too long":       dir(map[string]*Node{"l": {Mode: KindSymlink, Target: strings.Repeat("y", BlockSize)}}),
		"no kind":               dir(map[string]*Node{"x": {Mode: 0o644}}),
		"an attribute's prefix": dir(map[string]*Node{"x": {Mode: KindFifo, Xattrs: map[string]string{"other.x": ""}}}),
		"an attribute's size":   dir(map[string]*Node{"x": {Mode: KindFifo, Xattrs: map[string]string{"user.x": strings.Repeat("v", 1<<16)}}}),
	} {
		var b bytes.Buffer
		if err := Write(&b, root, []Device{{Blocks: 10}}); err == nil || b.Len() > 0 {
			t.Errorf("%s: %v, %d bytes", name, err, b.Len())
		}
	}
}

// TestWriteFails: the writer's error is Write's.
func TestWriteFails(t *testing.T) {
	root, devices := tree()
	whole := len(written(t, root, devices))
	for _, room := range []int{0, BlockSize, whole - 1} {
		if err := Write(&short{room}, root, devices); err != syscall.ENOSPC {
			t.Errorf("with %d of %d bytes: %v", room, whole, err)
		}
	}
}

type short struct{ room int }

func (s *short) Write(p []byte) (int, error) {
	if s.room -= len(p); s.room < 0 {
		return 0, syscall.ENOSPC
	}
	return len(p), nil
}

// FuzzRead: a file that is no file system of ours is an error, and no more.
func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	if err := Write(&b, dir(map[string]*Node{"f": file(9, Extent{1, 0}), "d": dir(nil)}), []Device{{Blocks: 10}}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		root, err := Read(data)
		if err == nil {
			_ = Write(io.Discard, root, []Device{{Blocks: 10}})
		}
	})
}
