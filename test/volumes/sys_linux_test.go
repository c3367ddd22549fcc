package volumes

import "golang.org/x/sys/unix"

// mountTmpfs mounts a tmpfs at dir, whose mounts propagate as the flag says: unix.MS_SHARED
// or unix.MS_PRIVATE.
func mountTmpfs(dir string, propagation uintptr) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		return err
	}
	return unix.Mount("", dir, "", propagation, "")
}

// unmount takes what is mounted at dir away, with what is mounted below.
func unmount(dir string) error { return unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) }
