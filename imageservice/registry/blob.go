package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Blob is a blob on its way, or a part of one. Reading it gives exactly its bytes or an
// error of this package. A connection that breaks or stalls is made again where it
// broke, with the next host if need be. It does not verify the digest: hash what
// was read, and Reject what is wrong. It is for one goroutine.
type Blob struct {
	ctx  context.Context
	repo *Repository
	desc ocispec.Descriptor

	off    int64     // in the blob
	end    int64     // in the blob
	body   io.Reader // nil: not connected
	closer func()
	host   *host
	name   atomic.Pointer[string] // of host
	used   []*host                // all that sent some of it
	tries  int                    // connections since there was progress
	mark   int64                  // off at the last progress
	err    error                  // sticky
}

// Blob begins to fetch the blob desc, of which digest and size count. ctx governs
// the whole transfer. Close it.
func (r *Repository) Blob(ctx context.Context, desc ocispec.Descriptor) (*Blob, error) {
	return r.Part(ctx, desc, 0, desc.Size)
}

// Part is Blob from byte from up to byte to, which is not of it. From a host that cannot
// give parts it goes on to the blob's end: see [Blob.End].
func (r *Repository) Part(ctx context.Context, desc ocispec.Descriptor, from, to int64) (*Blob, error) {
	if err := CheckDigest(desc.Digest); err != nil {
		return nil, err
	}
	if desc.Size < 0 {
		return nil, fmt.Errorf("blob %s: size %d: %w", desc.Digest, desc.Size, ErrCorrupt)
	}
	if from < 0 || from > to || to > desc.Size {
		return nil, fmt.Errorf("blob %s: bytes %d to %d of %d: %w", desc.Digest, from, to, desc.Size, ErrCorrupt)
	}
	b := &Blob{ctx: ctx, repo: r, desc: desc, off: from, mark: from, end: to}
	if to > from {
		if err := b.connect(); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// End is where in the blob reading ends. It changes at most once, to the end of the blob,
// when a connection is made.
func (b *Blob) End() int64 { return b.end }

// Bytes fetches a small blob into memory and verifies it, with the next host if
// one sends a wrong one. The caller has checked that desc.Size is no more than it wants.
func (r *Repository) Bytes(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	for {
		b, err := r.Blob(ctx, desc)
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(io.LimitReader(b, desc.Size+1))
		b.Close()
		if err == nil && digest.FromBytes(data) != desc.Digest {
			err = fmt.Errorf("blob %s: content has digest %s: %w", desc.Digest, digest.FromBytes(data), ErrCorrupt)
		}
		if err == nil {
			return data, nil
		}
		if !errors.Is(err, ErrCorrupt) || !b.Reject() {
			return nil, err
		}
	}
}

// Read implements io.Reader.
func (b *Blob) Read(p []byte) (int, error) {
	for b.err == nil {
		if b.off == b.end {
			b.err = b.finish()
			break
		}
		if b.body == nil {
			if b.err = b.reconnect(); b.err != nil {
				break
			}
		}
		n, err := b.body.Read(p[:min(int64(len(p)), b.end-b.off)])
		b.off += int64(n)
		if b.off-b.mark >= 1<<20 {
			b.mark, b.tries = b.off, 0
		}
		if err != nil && b.off < b.end {
			b.broken(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, b.err
}

// finish is io.EOF when the body ends where it should.
func (b *Blob) finish() error {
	if b.body == nil {
		return io.EOF
	}
	var extra [1]byte
	n, _ := io.ReadFull(b.body, extra[:])
	b.disconnect()
	if n > 0 {
		return b.repo.fail(b.host, ErrCorrupt, "blob "+b.desc.Digest.String(), fmt.Sprintf("is longer than its %d bytes, or than the part that was asked for", b.desc.Size))
	}
	return io.EOF
}

// broken notes why the connection ended before its time.
func (b *Blob) broken(err error) {
	b.disconnect()
	if err := ended(b.ctx); err != nil {
		b.err = fmt.Errorf("blob %s: %w", b.desc.Digest, err)
		return
	}
	fact := err.Error()
	switch {
	case errors.Is(err, errStalled):
		fact = b.repo.stall.String()
		b.host.down.Store(true) // ask another one first
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		fact = "connection closed"
	}
	if b.tries++; b.tries >= b.repo.retry.Attempts {
		b.err = b.repo.fail(b.host, ErrUnavailable, "blob "+b.desc.Digest.String(),
			fmt.Sprintf("%s after %d of %d bytes, for the %dth time", fact, b.off, b.desc.Size, b.tries))
	}
}

func (b *Blob) reconnect() error {
	if err := b.repo.retry.wait(b.ctx, b.tries-1, 0); err != nil {
		return fmt.Errorf("blob %s: %w", b.desc.Digest, err)
	}
	return b.connect()
}

// connect gets a body that begins at off.
func (b *Blob) connect() error {
	return b.repo.each(b.ctx, false, b.ask)
}

func (b *Blob) ask(h *host) (err error) {
	what := "blob " + b.desc.Digest.String()
	ctx, cancel := context.WithCancel(b.ctx)
	defer func() {
		if err != nil {
			cancel()
		}
	}()
	q := request{method: http.MethodGet, kind: "blobs", ref: b.desc.Digest.String()}
	if b.off > 0 || b.end < b.desc.Size {
		q.rang = "bytes=" + strconv.FormatInt(b.off, 10) + "-"
	}
	if b.end < b.desc.Size {
		q.rang += strconv.FormatInt(b.end-1, 10)
	}
	resp, err := b.repo.send(ctx, h, q)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			resp.Body.Close()
		}
	}()
	skip, length := int64(0), b.end-b.off
	switch resp.StatusCode {
	case http.StatusOK: // it does not know ranges
		skip, length = b.off, b.desc.Size
		b.end = b.desc.Size
	case http.StatusPartialContent:
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(b.off, 10)+"-") {
			return b.repo.fail(h, ErrCorrupt, what, "answered with another range than it was asked for")
		}
	default:
		return b.repo.status(h, resp, what, true)
	}
	if resp.ContentLength >= 0 && resp.ContentLength != length {
		return b.repo.fail(h, ErrCorrupt, what, fmt.Sprintf("the host has %d bytes, not %d", resp.ContentLength, length))
	}
	if _, err := io.CopyN(io.Discard, resp.Body, skip); err != nil {
		return b.repo.netError(b.ctx, h, what, err)
	}
	b.body, b.host = resp.Body, h
	b.name.Store(&h.name)
	b.used = append(b.used, h)
	b.closer = func() {
		cancel()
		resp.Body.Close()
	}
	return nil
}

func (b *Blob) disconnect() {
	if b.closer != nil {
		b.closer()
	}
	b.body, b.closer = nil, nil
}

// Host is the host that sends it, or sent last; "" before there is one. Unlike the rest of b,
// it is for any goroutine.
func (b *Blob) Host() string {
	if name := b.name.Load(); name != nil {
		return *name
	}
	return ""
}

// Close ends the transfer. It may be called again.
func (b *Blob) Close() error {
	b.disconnect()
	if b.err == nil {
		b.err = io.ErrClosedPipe
	}
	return nil
}

// Reject says that what was read is not the blob. The hosts that sent it are not
// asked again for anything in this repository. It reports whether a host is left.
func (b *Blob) Reject() bool {
	for _, h := range b.used {
		h.rejected.Store(true)
	}
	for _, h := range b.repo.hosts {
		if h.pull && !h.rejected.Load() {
			return true
		}
	}
	return false
}
