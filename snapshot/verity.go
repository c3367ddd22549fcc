package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/snapshot/durable"
	"github.com/berthd/berth/snapshot/verity"
)

// Where the file system has fs-verity, the kernel compares every byte that is read of a
// layer or an image with what was written: a container gets an error and never a wrong one.

// tryVerity finds out whether there is fs-verity.
func (b *blobs) tryVerity(ctx context.Context) error {
	path := b.path("tmp", "verity")
	if err := durable.Replace(path, []byte("verity"), 0o600); err != nil {
		return err
	}
	_, err := verity.Enable(path)
	if errors.Is(err, verity.ErrUnsupported) {
		klog.FromContext(ctx).V(1).Info("Layers are not protected by fs-verity", "err", err)
		return os.Remove(path)
	}
	b.verity = err == nil
	return errors.Join(err, os.Remove(path))
}

// protect has the kernel watch over files of the directory dir, if it can, and gives their
// digests by their names.
func (b *blobs) protect(dir string, names ...string) (map[string]string, error) {
	if !b.verity {
		return nil, nil
	}
	digests := make(map[string]string, len(names))
	for _, name := range names {
		digest, err := verity.Enable(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		digests[name] = digest
	}
	return digests, nil
}

// checkVerity compares a file's digest with what it was. One that the kernel does not watch
// here is none of a damage: the store may have been copied.
func checkVerity(path, want string) error {
	if want == "" {
		return nil
	}
	got, err := verity.Digest(path)
	if err != nil || got == want || got == "" {
		return err
	}
	return fmt.Errorf("%s: fs-verity's digest is %s, not %s: %w", path, got, want, ErrDamaged)
}
