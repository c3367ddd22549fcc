package snapshot

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// openVerity opens a store on a new file system with fs-verity, whose own file is image.
func openVerity(t *testing.T) (o *overlay, image string) {
	t.Helper()
	if !exists("/sys/fs/ext4/features/verity") {
		t.Skip("this kernel's ext4 has no fs-verity (CONFIG_FS_VERITY); go run ./test/vm run verity has one that does")
	}
	at := fileSystem(t, 256<<20, "", "mkfs.ext4", "-q", "-O", "verity", "-b", "4096")
	d, err := Open(t.Context(), "erofs", filepath.Join(at, "s"))
	if err != nil {
		t.Fatal(err)
	}
	return d.(*overlay), filepath.Join(filepath.Dir(at), "image")
}

// TestVerity: what the disk has changed under a container is an error there, and damage to
// VerifyLayer; the layer can then be added again.
func TestVerity(t *testing.T) {
	o, image := openVerity(t)
	body := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	entries := []entry{file("first", "unharmed"), file("large", string(body))}
	layer := add(t, o, entries...)
	name, err := layerName(layer)
	if err != nil {
		t.Fatal(err)
	}
	data := o.path("layers", name, dataFile)
	if _, err := os.OpenFile(data, os.O_WRONLY, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("open for writing: %v", err)
	}
	spoil(t, image, data, 512<<10)
	root := mounted(t, o, "c", layer)
	if got, err := os.ReadFile(filepath.Join(root, "first")); err != nil || string(got) != "unharmed" {
		t.Errorf("what is unharmed: %q, %v", got, err)
	}
	if _, err := os.ReadFile(filepath.Join(root, "large")); !errors.Is(err, unix.EIO) {
		t.Errorf("what is damaged: %v", err)
	}
	if err := o.VerifyLayer(t.Context(), layer); !errors.Is(err, ErrDamaged) {
		t.Errorf("verify: %v", err)
	}
	if o.HasLayer(layer) {
		t.Error("the damaged layer is still there")
	}
	if again := add(t, o, entries...); again != layer {
		t.Errorf("again: %s", again)
	}
	root = mounted(t, o, "d", layer)
	if got, err := os.ReadFile(filepath.Join(root, "large")); err != nil || !bytes.Equal(got, body) {
		t.Errorf("after it was added again: %d bytes, %v", len(got), err)
	}
}

// TestVerityReplaced: another file in the place of a layer's data is damage, and seen when
// the image is mounted.
func TestVerityReplaced(t *testing.T) {
	o, _ := openVerity(t)
	layer := add(t, o, file("f", "right"))
	name, err := layerName(layer)
	if err != nil {
		t.Fatal(err)
	}
	data := o.path("layers", name, dataFile)
	other := add(t, o, file("f", "wrong"))
	otherName, err := layerName(other)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(o.path("layers", otherName, dataFile), data); err != nil {
		t.Fatal(err)
	}
	err = o.SealImage(t.Context(), []digest.Digest{layer})
	if !errors.Is(err, ErrDamaged) || o.HasLayer(layer) {
		t.Errorf("%v; there: %t", err, o.HasLayer(layer))
	}
}

// spoil changes a byte of the file at path, at offset, on the disk that is image, and has
// the kernel forget what it has read.
func spoil(t *testing.T, image, path string, offset int64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	var arg struct { // struct fiemap with one extent
		start, length                   uint64
		flags, mapped, count, _         uint32
		logical, physical, extentLength uint64
		_                               [2]uint64
		extentFlags                     uint32
		_                               [3]uint32
	}
	arg.start, arg.length, arg.count = uint64(offset), 1, 1
	const fiemap = 0xc020660b
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fiemap, uintptr(unsafe.Pointer(&arg))); errno != 0 || arg.mapped != 1 {
		t.Fatalf("where it is: %v, %d extents", errno, arg.mapped)
	}
	disk, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	place, b := int64(arg.physical)+offset-int64(arg.logical), make([]byte, 1)
	if _, err := disk.ReadAt(b, place); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := disk.WriteAt(b, place); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(disk.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)); err != nil {
		t.Fatal(err)
	}
}
