package imageservice

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/imageservice/registry"
	"github.com/berthd/berth/snapshot"
)

// A layer is one layer of an image to be pulled.
type layer struct {
	blob   ocispec.Descriptor // as the registry has it
	diffID digest.Digest      // of the archive in it
	file   string             // of an artifact: what the blob, which is no archive, is called
}

// layerLimit is how large the archive in a blob may be, in bytes: gzip cannot do much better
// than 1000 to 1, zstd can, and neither does on files that are not made to fill disks.
func layerLimit(compressed int64) int64 { return 8<<30 + 200*compressed }

// maxWindow is the largest zstd window that is decoded, in bytes: it is memory. It
// is what zstd's own command line takes without being told to (--long=27).
const maxWindow = 128 << 20

// addLayer sees to it that a layer is on disk. Whoever needs the layer meanwhile, for this
// image or another, waits for the same transfer.
func (s *Service) addLayer(ctx context.Context, fetch fetcher, l layer, p *pullProgress) error {
	for {
		if s.layers.HasLayer(l.diffID) {
			p.bytes.Add(l.blob.Size)
			return nil
		}
		p.stage(l.blob.Digest, StageShared) // unless the transfer is ours
		var mine int64                      // of this layer's bytes, those that p has counted
		_, led, err := s.layerFlights.do(ctx, l.diffID, func(ctx context.Context) (struct{}, error) {
			n, err := fetch(ctx, l)
			mine = n
			return struct{}{}, err
		})
		switch {
		case err == nil && led:
			p.bytes.Add(l.blob.Size - mine)
			return nil
		case led || ctx.Err() != nil:
			return err
		}
		// Another pull's transfer ended. If it failed, that was with its registry and
		// its credentials: try with ours.
	}
}

// fetchLayer transfers a layer, from another host if one sends a wrong one. It
// returns what it has counted in p.
func (s *Service) fetchLayer(ctx context.Context, repo *registry.Repository, l layer, p *pullProgress) (int64, error) {
	p.stage(l.blob.Digest, StageQueued)
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	for {
		n, again, err := s.unpackLayer(ctx, repo, l, p)
		if !again {
			return n, err
		}
		p.bytes.Add(-n)
		klog.FromContext(ctx).Info("A registry host sent a wrong layer; asking another", "layer", l.blob.Digest, "err", err)
	}
}

// unpackLayer streams a blob into the driver: hash, decompress, hash again, unpack.
// again says that the host sent a wrong one and that there is another host.
func (s *Service) unpackLayer(ctx context.Context, repo *registry.Repository, l layer, p *pullProgress) (n int64, again bool, err error) {
	blobCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.stage(l.blob.Digest, StageConnecting)
	blob, err := repo.Blob(blobCtx, l.blob)
	if err != nil {
		return 0, false, err
	}
	defer blob.Close()
	p.from(l.blob.Digest, blob.Host())
	p.stage(l.blob.Digest, StageDownloading)
	src := &source{from: blob, hash: digest.SHA256.Digester(), progress: p, ended: func() { p.stage(l.blob.Digest, StageUnpacking) }}
	archive := readAhead(&decompressor{src: src, limit: s.limit(l.blob.Size), hash: digest.SHA256.Digester(), layer: l})
	err = s.layers.AddLayer(ctx, l.diffID, archive, func() error {
		defer p.stage(l.blob.Digest, StageSyncing)
		archive.cause = archive.from.verify()
		return archive.cause
	})
	cancel() // a Read that hangs
	archive.stop()
	if err == nil {
		s.candidates.add(l.diffID)
		return src.n, false, nil
	}
	wrong := archive.cause != nil && archive.from.wrong
	if archive.cause != nil && ctx.Err() == nil {
		err = archive.cause // the driver may only have seen its echo
	}
	// Only what contradicts the manifest is the host's fault; a bad archive that matches its digest is the same everywhere.
	return src.n, wrong && blob.Reject(), layerError(l, err)
}

// layerError says which layer could not be unpacked, and that it is the image's fault where
// it is.
func layerError(l layer, err error) error {
	switch {
	case errors.Is(err, snapshot.ErrCorrupt), errors.Is(err, snapshot.ErrMalicious):
		return fmt.Errorf("layer %s: %w: %w", l.blob.Digest, err, ErrCorrupt)
	case errors.Is(err, snapshot.ErrTooLarge):
		return fmt.Errorf("layer %s: %w: %w", l.blob.Digest, err, ErrTooLarge)
	}
	return fmt.Errorf("layer %s: %w", l.blob.Digest, err)
}

// A source is a blob being read: hashed and counted.
type source struct {
	from     io.Reader
	hash     digest.Digester
	n        int64
	err      error // why reading ended, unless at its end
	progress *pullProgress
	ended    func() // called once, at the end; may be nil
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	n, err := s.from.Read(p)
	s.hash.Hash().Write(p[:n])
	s.n += int64(n)
	s.progress.bytes.Add(int64(n))
	if err != nil && err != io.EOF {
		s.err = err
	}
	if err == io.EOF && s.ended != nil {
		s.ended()
		s.ended = nil
	}
	return n, err
}

// A decompressor is the archive in a source: gzip, zstd or plain, which its first
// bytes tell. The media type is not asked: images exist that have it wrong, and the
// diff ID decides in the end. What is an artifact's file is put into an archive as it is.
type decompressor struct {
	src   *source
	layer layer
	limit int64
	hash  digest.Digester

	in    *bufio.Reader
	out   io.Reader // nil before the first Read
	close func()
	n     int64
	err   error // why reading ended, unless at its end
	wrong bool  // the blob is not what its digest says, or cannot be decompressed
}

var (
	gzipMagic = []byte{0x1f, 0x8b, 0x08}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
	// A zstd stream may begin with a skippable frame, 0x184D2A5? (RFC 8878, 3.1.2).
	skipMagic = []byte{0x2a, 0x4d, 0x18}
)

// Read implements io.Reader.
func (d *decompressor) Read(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	if d.out == nil {
		if err := d.begin(); err != nil {
			return 0, d.fail(err)
		}
	}
	n, err := d.out.Read(p)
	d.hash.Hash().Write(p[:n])
	if d.n += int64(n); d.n > d.limit {
		d.err = fmt.Errorf("unpacks to more than %d bytes: %w", d.limit, ErrTooLarge)
		return 0, d.err
	}
	if err != nil && err != io.EOF {
		err = d.fail(err)
	}
	return n, err
}

func (d *decompressor) begin() error {
	if d.layer.file != "" {
		var err error
		d.out, err = fileArchive(d.layer.file, d.layer.blob.Size, d.src)
		return err
	}
	d.in = bufio.NewReaderSize(d.src, 128<<10)
	magic, err := d.in.Peek(4)
	if err != nil && err != io.EOF {
		return err
	}
	switch {
	case bytes.HasPrefix(magic, gzipMagic):
		z, err := gzip.NewReader(d.in)
		if err != nil {
			return err
		}
		d.out = z
	case bytes.Equal(magic, zstdMagic), len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], skipMagic):
		z, err := zstd.NewReader(d.in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return err
		}
		d.out, d.close = z, z.Close
	default:
		d.out = d.in
	}
	return nil
}

// fail keeps why reading ended: the source's reason, or else the data's.
func (d *decompressor) fail(err error) error {
	if d.err = d.src.err; d.err == nil {
		d.wrong = true
		d.err = fmt.Errorf("decompress: %w: %w", err, ErrCorrupt)
	}
	d.wrong = d.wrong || errors.Is(d.err, ErrCorrupt)
	return d.err
}

// verify compares blob and archive with what the manifest and the configuration
// say. Call it when the archive has been read to its end.
func (d *decompressor) verify() error {
	// What follows the compressed stream is part of the blob.
	if _, err := io.Copy(io.Discard, d.src); err != nil {
		return d.fail(err)
	}
	if got := d.src.hash.Digest(); got != d.layer.blob.Digest || d.src.n != d.layer.blob.Size {
		d.wrong = true
		d.err = fmt.Errorf("content is %d bytes with digest %s: %w", d.src.n, got, ErrCorrupt)
		return d.err
	}
	if got := d.hash.Digest(); got != d.layer.diffID && d.layer.file == "" {
		d.err = fmt.Errorf("archive has diff ID %s, the configuration says %s: %w", got, d.layer.diffID, ErrCorrupt)
		return d.err
	}
	return nil
}
