package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
)

const (
	copyChunk     = 128 << 10 // read at once; also the smallest hole that is kept
	writebackStep = 8 << 20   // written before the kernel is asked to start storing it
)

// copySparse copies size bytes from r to the empty file f, leaving out stretches of zeros,
// so that a sparse file stays one. A reader that ends early is io.ErrUnexpectedEOF.
func copySparse(ctx context.Context, f *os.File, r io.Reader, size int64, buf []byte) error {
	var at, started int64
	hole := false
	for at < size {
		if err := ctx.Err(); err != nil {
			return err
		}
		chunk := buf[:min(int64(len(buf)), size-at)]
		if n, err := io.ReadFull(r, chunk); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("after %d of %d bytes: %w", at+int64(n), size, err)
		}
		if hole = isZero(chunk); !hole {
			if _, err := f.WriteAt(chunk, at); err != nil {
				return err
			}
		}
		at += int64(len(chunk))
		if at-started >= writebackStep {
			startWriteback(f, started)
			started = at
		}
	}
	if hole {
		return f.Truncate(size)
	}
	return nil
}

// isZero tells whether b, which is not empty, has only zeros: its first byte is one,
// and every byte equals the one before.
func isZero(b []byte) bool { return b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1]) }

// paxXattr introduces an extended attribute in an archive, as star and GNU tar write it.
const paxXattr = "SCHILY.xattr."

// keepXattr tells which extended attributes are taken from an image: a user's own, file
// capabilities, IMA signatures and ACLs. Not trusted.* and user.overlay.*, by which
// overlayfs would let an image redirect files (images built by rootless tools do carry
// some; containerd drops them too), and not security.selinux, which is the node's policy.
func keepXattr(key string) bool {
	switch key {
	case "security.capability", "security.ima", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(key, "user.") && !strings.HasPrefix(key, "user.overlay.")
}

// xattrsOf returns those of an entry's extended attributes that are kept.
func xattrsOf(hdr *tar.Header) (map[string][]byte, error) {
	var out map[string][]byte
	for record, value := range hdr.PAXRecords {
		key, ok := strings.CutPrefix(record, paxXattr)
		if !ok || !keepXattr(key) {
			continue
		}
		if len(key) > maxComponent || len(value) > maxXattr {
			return nil, fmt.Errorf("attribute %.80q of %d bytes: %w", key, len(value), ErrCorrupt)
		}
		if out == nil {
			out = make(map[string][]byte)
		}
		out[key] = []byte(value)
	}
	return out, nil
}

// setXattrs sets extended attributes of the file name in dir. What a file of this kind
// or this file system cannot have is left out, as tar does.
func setXattrs(dir at, name string, xattrs map[string][]byte) error {
	for key, value := range xattrs {
		err := dir.setxattr(name, key, value)
		switch {
		case err == nil, isRefused(err):
		case isBadValue(err):
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		default:
			return err
		}
	}
	return nil
}

// readXattrs reads those extended attributes of the file name in dir that are kept.
func readXattrs(dir at, name string) (map[string][]byte, error) {
	keys, err := dir.listxattr(name)
	if err != nil {
		return nil, err
	}
	out := make(map[string][]byte)
	for _, key := range keys {
		if !keepXattr(key) {
			continue
		}
		value, err := dir.getxattr(name, key)
		if err != nil {
			return nil, err
		}
		if value != nil {
			out[key] = value
		}
	}
	return out, nil
}
