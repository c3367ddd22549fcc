package snapshot

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
)

// A reading is the reading of one archive, held to its limits.
type reading struct {
	ctx    context.Context // of the one call that it lives for
	limits Limits

	skeleton *skeletonWriter // nil: none is kept

	entries, bytes int64
}

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
	return nil
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
