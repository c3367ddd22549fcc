package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/moby/sys/mountinfo"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/snapshot/loop"
)

// mountsDir is where seals are mounted that containers stand on.
const mountsDir = "mounts"

// A mountLocks orders mounting and unmounting of one seal.
type mountLocks struct {
	mu   sync.Mutex // short: guards the map
	each map[string]*sync.Mutex
}

func (l *mountLocks) of(seal string) *sync.Mutex {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.each == nil {
		l.each = map[string]*sync.Mutex{}
	}
	if l.each[seal] == nil {
		l.each[seal] = &sync.Mutex{}
	}
	return l.each[seal]
}

// start learns how this kernel mounts EROFS, and unmounts what a crash has left mounted.
func (b *blobs) start(ctx context.Context) error {
	if err := makeDir(b.path(mountsDir), 0o700); err != nil {
		return err
	}
	if err := b.probe(); err != nil {
		return err
	}
	left, err := os.ReadDir(b.path(mountsDir))
	if err != nil {
		return err
	}
	for _, e := range left {
		if err := b.close(ctx, e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// probe mounts an image once: from its file (kernel 6.12), or by a loop device.
func (b *blobs) probe() (err error) {
	dir, err := os.MkdirTemp(b.path("tmp"), probePrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	image, root := filepath.Join(dir, imageFile), filepath.Join(dir, "root")
	if _, err := writeTree(image, emptyDir(), nil); err != nil {
		return err
	}
	for _, b.loops = range []bool{false, true} {
		if err = b.mount(image, nil, root); err == nil {
			return Unmount(root)
		}
		if !isNoBlockDevice(err) {
			break
		}
	}
	return fmt.Errorf("this kernel mounts no EROFS (CONFIG_EROFS_FS; the module erofs): %w: %w", ErrUnsupported, err)
}

// open mounts a seal unless it is mounted.
func (b *blobs) open(ctx context.Context, seal string) error {
	l := b.locks.of(seal)
	l.Lock()
	defer l.Unlock()
	if is, err := mountinfo.Mounted(b.path(mountsDir, seal)); is || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	rec, err := b.soundAgain(ctx, seal)
	if err != nil {
		return err
	}
	var devices []string
	for _, name := range rec.Devices {
		devices = append(devices, b.path("layers", name, dataFile))
	}
	return b.mount(b.path("seals", seal, imageFile), devices, b.path(mountsDir, seal))
}

// soundAgain reads a seal's record. An image that is damaged is made again of the layers'
// trees.
func (b *blobs) soundAgain(ctx context.Context, seal string) (sealRecord, error) {
	rec, err := b.sound(ctx, seal)
	if !errors.Is(err, ErrDamaged) {
		return rec, err
	}
	klog.FromContext(ctx).Error(err, "An image is damaged on disk; it is made again")
	if err := b.trash.throw(b.path("seals", seal), seal); err != nil {
		return rec, err
	}
	if err := b.SealImage(ctx, rec.Chain); err != nil {
		return rec, err
	}
	return b.sound(ctx, seal)
}

// sound reads a seal's record and its image, which is to be as it was written.
func (b *blobs) sound(ctx context.Context, seal string) (rec sealRecord, err error) {
	if err := readRecord(b.path("seals", seal, "seal.json"), &rec); err != nil {
		return rec, err
	}
	return rec, checkSum(ctx, b.path("seals", seal, imageFile), rec.Image)
}

// mount mounts an image over its devices at target.
func (b *blobs) mount(image string, devices []string, target string) error {
	files := append([]string{image}, devices...)
	if b.loops {
		for i, path := range files {
			device, err := loop.Attach(path)
			if err != nil {
				return err
			}
			defer device.Close() // the mount keeps it
			files[i] = device.Name()
		}
	}
	m := Mount{Type: "erofs", Source: files[0], Options: []string{"ro", "nodev"}}
	for _, path := range files[1:] {
		m.Options = append(m.Options, "device="+path)
	}
	return MountAll([]Mount{m}, target)
}

// close unmounts a seal unless a container stands on it.
func (b *blobs) close(_ context.Context, seal string) error {
	l := b.locks.of(seal)
	l.Lock()
	defer l.Unlock()
	b.mu.Lock()
	used := len(b.users[seal]) > 0
	b.mu.Unlock()
	if used {
		return nil
	}
	at := b.path(mountsDir, seal)
	if err := Unmount(at); err != nil {
		return err
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
