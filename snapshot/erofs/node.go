package erofs

import (
	"errors"
	"time"
)

// ErrTooLarge says that a tree does not fit into the format.
var ErrTooLarge = errors.New("too large for EROFS")

// BlockSize is the unit of devices, in bytes: each file's data begins at a multiple of it.
const BlockSize = 1 << blockBits

const blockBits = 12

// Kinds of files, as in st_mode.
const (
	KindMask    = 0o170000
	KindFifo    = 0o010000
	KindChar    = 0o020000
	KindDir     = 0o040000
	KindBlock   = 0o060000
	KindRegular = 0o100000
	KindSymlink = 0o120000
	KindSocket  = 0o140000
)

// A Node is a file of any kind. What has several names is in several directories: a
// directory never is.
type Node struct {
	Mode     uint32 // kind and permissions, as st_mode
	UID, GID uint32
	Mtime    time.Time
	Rdev     uint32            // of a device, as the kernel writes it: Rdev
	Target   string            // of a symbolic link, never empty
	Xattrs   map[string]string // by full name: user.x, trusted.x, security.x, system.posix_acl_…
	Size     uint64            // of a regular file, in bytes
	Data     Extent            // of a regular file that has bytes
	Children map[string]*Node  // of a directory
}

// An Extent is where a file's bytes are, one after the other.
type Extent struct {
	Device uint16 // from 1
	Block  uint32 // in units of BlockSize
}

// A Device is a file with the bytes of files.
type Device struct {
	Tag    string // what it is, for those who look at the file system; up to 64 bytes
	Blocks uint32 // its size
}

// IsDir tells whether n is a directory.
func (n *Node) IsDir() bool { return n.Mode&KindMask == KindDir }

// IsWhiteout tells whether n says that a lower layer's file of its name is gone.
func (n *Node) IsWhiteout() bool { return n.Mode&KindMask == KindChar && n.Rdev == 0 }

// Rdev is a device number as the kernel has it on disk (new_encode_dev).
func Rdev(major, minor uint32) uint32 { return minor&0xff | major<<8 | minor&^0xff<<12 }

// Numbers is the inverse of Rdev.
func Numbers(rdev uint32) (major, minor uint32) { return rdev >> 8 & 0xfff, rdev&0xff | rdev>>12&^0xff }
