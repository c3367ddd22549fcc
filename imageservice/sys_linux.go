package imageservice

import (
	"errors"

	"golang.org/x/sys/unix"
)

// isDiskDamage tells whether a file cannot be read because of the disk or the file system, or is no
// file any more.
func isDiskDamage(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.EUCLEAN) || errors.Is(err, unix.EBADMSG) || errors.Is(err, unix.EISDIR)
}
