// Package disk gives a benchmark an ext4 of its own with a journal, in a file on a loop
// device. On the machine's own file system, other programs' writes would be waited
// for by every fsync, and an ext4 without a journal takes up to a millisecond for each new
// file after many have been deleted: it passes over their inodes one by one for minutes.
//
// The file has no name once it is mounted, and the loop device goes with the mount, so
// after a crash umount(8) takes away all of it.
package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A Disk is a mounted file system.
type Disk struct {
	Dir string // where it is mounted
}

// New makes a file system of size bytes, which are taken from where temporary files are. The
// caller closes it.
func New(ctx context.Context, size int64) (_ *Disk, err error) {
	dir, err := os.MkdirTemp("", "berth-disk-")
	if err != nil {
		return nil, err
	}
	d := &Disk{Dir: filepath.Join(dir, "mnt")}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err := os.Mkdir(d.Dir, 0o711); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "disk")
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	err = errors.Join(allocate(f, size), f.Close())
	if err != nil {
		return nil, fmt.Errorf("%d GB for the benchmark's disk in %s (TMPDIR says where): %w", size>>30, dir, err)
	}
	if _, err := run(ctx, "mkfs.ext4", "-q", "-F", "-E", "nodiscard", file); err != nil {
		return nil, err
	}
	loop, err := run(ctx, "losetup", "--find", "--show", "--direct-io=on", file)
	if err != nil {
		return nil, err
	}
	_, err = run(ctx, "mount", "-o", "noinit_itable", loop, d.Dir)
	// While it is mounted, this only says that the device goes when the mount does.
	_, loopErr := run(context.WithoutCancel(ctx), "losetup", "--detach", loop)
	if err := errors.Join(err, loopErr); err != nil {
		return nil, err
	}
	return d, os.Remove(file)
}

// Close takes the file system away, with all that is in it.
func (d *Disk) Close(ctx context.Context) error {
	if _, err := run(ctx, "umount", d.Dir); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Dir(d.Dir))
}

func run(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, text)
	}
	return text, nil
}
