package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// A packing is how a layer's tar stream is compressed in the registry.
type packing int

const (
	packGzip packing = iota
	packZstd
	packNone
)

// epoch is the modification time of every file, so that the same content always
// gives the same digest.
func epoch() time.Time { return time.Unix(1767225600, 0).UTC() }

// A tree is the content of a layer by path, without a leading slash.
// Directories that are only implied by a path are added by layer.
type tree map[string]node

// A node is one file of a tree. Exactly one of the kinds is meant by typeflag.
type node struct {
	typeflag byte // a tar type; 0 is a regular file
	mode     int64
	uid, gid int
	data     []byte
	link     string
	major    int64             // of a device node
	minor    int64             // likewise
	xattrs   map[string]string // by full name, such as user.note
}

func file(mode int64, data string) node { return node{mode: mode, data: []byte(data)} }
func dir(mode int64) node               { return node{typeflag: tar.TypeDir, mode: mode} }
func symlink(to string) node            { return node{typeflag: tar.TypeSymlink, mode: 0o777, link: to} }
func hardlink(to string) node           { return node{typeflag: tar.TypeLink, mode: 0o755, link: to} }

// merge returns the union of trees; later ones win.
func merge(trees ...tree) tree {
	out := tree{}
	for _, t := range trees {
		for k, v := range t {
			out[k] = v
		}
	}
	return out
}

// tarball writes t as a tar stream: parents before children, hard links last.
func (t tree) tarball() ([]byte, error) {
	full := tree{}
	for name, n := range t {
		full[name] = n
		for d := path.Dir(name); d != "." && d != "/"; d = path.Dir(d) {
			if _, ok := t[d]; !ok {
				full[d] = dir(0o755)
			}
		}
	}
	names := make([]string, 0, len(full))
	for name := range full {
		names = append(names, name)
	}
	sort.Slice(names, func(i, j int) bool {
		a, b := full[names[i]].typeflag == tar.TypeLink, full[names[j]].typeflag == tar.TypeLink
		if a != b {
			return b
		}
		return names[i] < names[j]
	})
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range names {
		n := full[name]
		h := &tar.Header{
			Typeflag: n.typeflag, Name: name, Linkname: n.link, Mode: n.mode, Uid: n.uid, Gid: n.gid,
			Size: int64(len(n.data)), ModTime: epoch(), Format: tar.FormatPAX,
		}
		h.Devmajor, h.Devminor = n.major, n.minor
		for k, v := range n.xattrs {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords["SCHILY.xattr."+k] = v
		}
		switch n.typeflag {
		case 0:
			h.Typeflag = tar.TypeReg
		case tar.TypeDir:
			h.Name = strings.TrimSuffix(name, "/") + "/"
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("tar %s: %w", name, err)
		}
		if _, err := w.Write(n.data); err != nil {
			return nil, fmt.Errorf("tar %s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// pack compresses a tar stream.
func pack(p packing, data []byte) ([]byte, error) {
	var buf bytes.Buffer
	var w io.WriteCloser
	switch p {
	case packNone:
		return data, nil
	case packZstd:
		z, err := zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		w = z
	default:
		w = gzip.NewWriter(&buf)
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
