package snapshot

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A reading is the reading of one archive, held to its limits.
type reading struct {
	ctx    context.Context // of the one call that it lives for
	limits Limits

	skeleton *skeletonWriter // nil: none is kept

	entries, bytes int64
	implied        int64 // directories that names have in them and that no entry is for
	sparse         int64 // bytes of files that the archive has in another form
	text           int64 // bytes of names, links' targets and attributes
}

// Limits that are not for an operator to know. Both bound what an archive of little
// can make of itself: none would be passed by an honest one.
const (
	maxSparse = 16 << 30  // bytes, holes included: reading them takes time
	maxText   = 256 << 20 // bytes: a layer's tree is in memory when an image is made of it
)

// all calls entry for every entry of the archive in r, and reads r to its end.
func (a *reading) all(r io.Reader, entry func(*tar.Header, io.Reader) error) error {
	src := &source{r: r, ctx: a.ctx, left: a.limits.Bytes}
	var archive io.Reader = bufio.NewReaderSize(src, 128<<10)
	if a.skeleton != nil {
		a.skeleton.from = archive
		archive = a.skeleton
	}
	err := a.each(tar.NewReader(archive), entry)
	if err == nil {
		_, err = io.Copy(io.Discard, archive)
	}
	switch {
	case src.err != nil:
		return src.err // not the archive's fault
	case a.skeleton != nil && a.skeleton.err != nil:
		return a.skeleton.err // the disk's
	}
	return err
}

func (a *reading) each(archive *tar.Reader, entry func(*tar.Header, io.Reader) error) error {
	for {
		hdr, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // names are cleaned here
			return fmt.Errorf("archive: %w: %w", ErrCorrupt, err)
		}
		if err := a.count(hdr); err != nil {
			return err
		}
		if err := entry(hdr, archive); err != nil {
			return fmt.Errorf("entry %.200q: %w", hdr.Name, err)
		}
	}
}

// count holds the archive to its limits, before anything is done for the entry.
func (a *reading) count(hdr *tar.Header) error {
	a.entries++
	if a.entries > a.limits.Entries {
		return fmt.Errorf("more than %d entries: %w", a.limits.Entries, ErrTooLarge)
	}
	if hdr.Size < 0 {
		return fmt.Errorf("entry %.200q: size %d: %w", hdr.Name, hdr.Size, ErrCorrupt)
	}
	if hdr.Size > a.limits.Bytes-a.bytes {
		return fmt.Errorf("entry %.200q: files of more than %d bytes: %w", hdr.Name, a.limits.Bytes, ErrTooLarge)
	}
	a.bytes += hdr.Size
	if isSparse(hdr) {
		if a.sparse += hdr.Size; a.sparse > maxSparse {
			return fmt.Errorf("entry %.200q: sparse files of more than %d bytes: %w", hdr.Name, int64(maxSparse), ErrTooLarge)
		}
	}
	a.text += int64(len(hdr.Name) + len(hdr.Linkname))
	for key, value := range hdr.PAXRecords {
		a.text += int64(len(key) + len(value))
	}
	if a.text > maxText {
		return fmt.Errorf("entry %.200q: names and attributes of more than %d bytes: %w", hdr.Name, maxText, ErrTooLarge)
	}
	return nil
}

// countImplied counts a directory that has no entry. There may be hundreds for each that has.
func (a *reading) countImplied() error {
	if a.implied++; a.implied > a.limits.Entries-a.entries {
		return fmt.Errorf("more than %d entries and directories: %w", a.limits.Entries, ErrTooLarge)
	}
	return nil
}

// isSparse tells whether the archive has something else of a file than its bytes: where
// they go, in one of GNU tar's forms ("Storing Sparse Files" in its manual).
func isSparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// A source is the archive's bytes, counted. It keeps the reader's error, to tell a
// broken connection from a broken archive.
type source struct {
	r    io.Reader
	ctx  context.Context
	left int64
	err  error
}

func (s *source) Read(p []byte) (int, error) {
	if s.err == nil {
		s.err = s.ctx.Err()
	}
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	if s.left -= int64(n); s.left < 0 {
		err = fmt.Errorf("archive: %w", ErrTooLarge)
	}
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}
