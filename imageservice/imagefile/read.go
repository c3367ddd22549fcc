// Package imagefile reads and writes images as single files: tar archives of an OCI image
// layout (image-layout.md of the OCI image specification) and what docker save writes.
//
// It knows of tar and of names in it, and nothing of images: what a document says is for
// package imageservice, which reads those of an archive as it reads a registry's.
//
// Archives are hostile. A name in one is a key in a map here and never a path on the host. What is
// there twice, leaves the archive, is no file, or follows its end is refused, and
// everything has a cap.
//
// Nothing is kept: an Archive is good for as long as the file that it was spooled to is open.
package imagefile

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/berthd/berth/imageservice/compressed"
	"github.com/berthd/berth/imageservice/registry"
)

// Caps on an archive.
const (
	maxMembers = 20_000 // an image of the most layers has not a tenth of it
	maxName    = 1024   // bytes
	maxLinks   = 10     // that lead from one to the next
)

// A File is where an archive is spooled to.
type File interface {
	io.Writer
	io.ReaderAt
}

// An Archive is one that has been read. It may be used by several goroutines.
type Archive struct {
	file    File
	members map[string]member
}

type member struct {
	offset, size int64
	link         string // of a link: what it leads to
}

// Read spools an archive, which may be compressed with gzip or zstd, to file, which is
// empty. limit says how many bytes what has been read so far may have become. Errors:
// registry.ErrCorrupt, registry.ErrTooLarge, from's own, the context's, or the disk's.
func Read(ctx context.Context, from io.Reader, file File, limit func(read int64) int64) (*Archive, error) {
	src := &source{ctx: ctx, from: from}
	plain, err := compressed.NewReader(src)
	if err != nil {
		return nil, src.blame(err)
	}
	defer plain.Close()
	if src.n == 0 {
		return nil, fmt.Errorf("archive: is empty: %w", registry.ErrCorrupt)
	}
	in := &capped{from: plain, src: src, limit: limit}
	a := &Archive{file: file, members: map[string]member{}}
	if err := a.spool(tar.NewReader(in)); err != nil {
		return nil, src.blame(err)
	}
	if err := onlyZeros(in); err != nil {
		return nil, src.blame(err)
	}
	return a, nil
}

// spool reads all members.
func (a *Archive) spool(r *tar.Reader) error {
	var at int64
	buf := make([]byte, 1<<20)
	for {
		hdr, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		var m member
		switch hdr.Typeflag {
		case tar.TypeReg:
			m = member{offset: at, size: hdr.Size}
		case tar.TypeSymlink: // docker save has had layers that are links to one another
			m.link = path.Join(path.Dir(path.Clean("/"+hdr.Name)), hdr.Linkname)
		case tar.TypeLink:
			m.link = path.Clean("/" + hdr.Linkname)
		case tar.TypeDir, tar.TypeXGlobalHeader:
			continue
		default:
			return fmt.Errorf("archive: %.300q: is no file (type %q): %w", hdr.Name, hdr.Typeflag, registry.ErrCorrupt)
		}
		name, err := nameOf(hdr.Name)
		if err != nil {
			return err
		}
		if sparse(hdr) {
			return fmt.Errorf("archive: %.300q: is a sparse file; make the archive without tar's --sparse: %w", name, registry.ErrCorrupt)
		}
		if _, twice := a.members[name]; twice {
			return fmt.Errorf("archive: %.300q is in it twice: %w", name, registry.ErrCorrupt)
		}
		if len(a.members) >= maxMembers {
			return fmt.Errorf("archive: more than %d files: %w", maxMembers, registry.ErrTooLarge)
		}
		if strings.HasPrefix(hdr.Linkname, "/") || m.link != "" && climbs(hdr) || len(hdr.Linkname) > maxName {
			return fmt.Errorf("archive: %.300q leads out of the archive, to %.300q: %w", name, hdr.Linkname, registry.ErrCorrupt)
		}
		a.members[name] = m
		if m.link != "" {
			continue
		}
		n, err := io.CopyBuffer(struct{ io.Writer }{a.file}, struct{ io.Reader }{r}, buf)
		if err != nil {
			return fmt.Errorf("archive: %.300q: %w", name, err)
		}
		at += n
	}
}

// nameOf is a member's name in its plain form. One that could be somewhere else is refused.
func nameOf(name string) (string, error) {
	plain := strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
	if plain == "" || len(plain) > maxName || path.Clean(plain) != plain || plain == ".." || strings.HasPrefix(plain, "../") || plain[0] == '/' || strings.ContainsRune(plain, 0) {
		return "", fmt.Errorf("archive: name %.300q is not one below the archive's root: %w", name, registry.ErrCorrupt)
	}
	return plain, nil
}

// sparse tells whether a regular file has holes, which package tar fills with zeros that are
// not in the archive: any number of them, and none that a cap on the archive counts.
func sparse(hdr *tar.Header) bool {
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// climbs tells whether a link leads above the archive's root.
func climbs(hdr *tar.Header) bool {
	from := "."
	if hdr.Typeflag == tar.TypeSymlink {
		from = path.Dir(hdr.Name)
	}
	to := path.Join(from, hdr.Linkname)
	return to == ".." || strings.HasPrefix(to, "../")
}

// Has tells whether a file is there.
func (a *Archive) Has(name string) bool {
	_, err := a.Open(name)
	return err == nil
}

// Open reads a file, by its name or one that links to it. registry.ErrNotFound.
func (a *Archive) Open(name string) (*io.SectionReader, error) {
	at := strings.TrimPrefix(path.Clean("/"+name), "/")
	for range maxLinks {
		m, ok := a.members[at]
		switch {
		case !ok:
			return nil, fmt.Errorf("archive: %.300q is not in it: %w", name, registry.ErrNotFound)
		case m.link == "":
			return io.NewSectionReader(a.file, m.offset, m.size), nil
		}
		at = strings.TrimPrefix(m.link, "/")
	}
	return nil, fmt.Errorf("archive: %.300q: more than %d links in a row: %w", name, maxLinks, registry.ErrCorrupt)
}

// Bytes reads a file of at most limit bytes whole. registry.ErrNotFound, registry.ErrTooLarge.
func (a *Archive) Bytes(name string, limit int64) ([]byte, error) {
	r, err := a.Open(name)
	if err != nil {
		return nil, err
	}
	if r.Size() > limit {
		return nil, fmt.Errorf("archive: %.300q: %d bytes, more than %d: %w", name, r.Size(), limit, registry.ErrTooLarge)
	}
	return io.ReadAll(r)
}

// A source is what comes from outside, counted.
type source struct {
	ctx  context.Context
	from io.Reader
	n    int64
	err  error // what reading ended with, if not at the end
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		s.err = err
		return 0, err
	}
	n, err := s.from.Read(p)
	s.n += int64(n)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// blame says whose fault err is: the caller's reader's, or else the archive's, if nobody has
// said so yet.
func (s *source) blame(err error) error {
	switch {
	case s.err != nil:
		return fmt.Errorf("archive: %w", s.err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("archive: ends early, after %d bytes: %w", s.n, registry.ErrCorrupt)
	case errors.Is(err, tar.ErrHeader), errors.Is(err, errCompressed):
		return fmt.Errorf("archive: is no tar archive, or a damaged one: %w: %w", err, registry.ErrCorrupt)
	}
	return err
}

// errCompressed marks what a decompressor ended with.
var errCompressed = errors.New("cannot be decompressed")

// capped is an archive's bytes up to the limit.
type capped struct {
	from  io.Reader
	src   *source
	limit func(int64) int64
	n     int64
}

// Read implements io.Reader.
func (c *capped) Read(p []byte) (int, error) {
	if err := c.src.ctx.Err(); err != nil { // little that has been read may become much
		c.src.err = err
		return 0, err
	}
	n, err := c.from.Read(p)
	if c.n += int64(n); c.n > c.limit(c.src.n) {
		return 0, fmt.Errorf("archive: unpacks to more than %d bytes: %w", c.limit(c.src.n), registry.ErrTooLarge)
	}
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		err = fmt.Errorf("%w: %w", errCompressed, err)
	}
	return n, err
}

// onlyZeros reads to the end. What follows an archive's end is padding, or a second archive
// that others would read.
func onlyZeros(r io.Reader) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			return fmt.Errorf("archive: something follows its end: %w", registry.ErrCorrupt)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
