package imageservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/imageservice/precedence"
	"github.com/berthd/berth/imageservice/registry"
	"github.com/berthd/berth/snapshot"
	"github.com/berthd/berth/snapshot/durable"
)

// A layer is one layer of an image to be pulled.
type layer struct {
	blob   ocispec.Descriptor // as the registry has it
	diffID digest.Digest      // of the archive in it
	file   string             // of an artifact: what the blob, which is no archive, is called

	manifest digest.Digest // that lists it
	add      addLayerFunc  // nil: the driver's AddLayer
}

// layerLimit is how large the archive in a blob may be, in bytes: gzip cannot do much better
// than 1000 to 1, zstd can, and neither does on files that are not made to fill disks.
func layerLimit(compressed int64) int64 { return 8<<30 + 200*compressed }

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
	begin := time.Now()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	p.spent.slot.since(begin)
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
// again says that the host sent a wrong one and that there is another host. n is what of
// it has been counted in p.
func (s *Service) unpackLayer(ctx context.Context, repo *registry.Repository, l layer, p *pullProgress) (n int64, again bool, err error) {
	blobCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.stage(l.blob.Digest, StageConnecting)
	var counted atomic.Int64
	blob, err := s.downloads.Blob(blobCtx, repo, l.blob, func(n int64) {
		counted.Add(n)
		p.bytes.Add(n)
	})
	if err != nil {
		return 0, false, err
	}
	defer blob.Close()
	p.from(l.blob.Digest, blob.Host)
	p.stage(l.blob.Digest, StageDownloading)
	a, verify := p.openArchive(blob, l, s.limit(l.blob.Size), &s.junction)
	begin := time.Now()
	err = s.adder(l)(ctx, l.diffID, a, verify)
	p.spent.layer(time.Since(begin), a)
	cancel() // a Read that hangs
	a.close()
	if err == nil {
		blob.Discard()
		s.candidates.spare(l.diffID)
		return counted.Load(), false, nil
	}
	if a.err != nil && ctx.Err() == nil {
		err = a.err // the driver may only have seen its echo
	}
	// Only what contradicts the manifest is the host's fault; a bad archive that matches its digest is the same everywhere.
	again = a.wrong && blob.Reject()
	switch {
	case durable.IsFull(err):
		s.downloads.Full()
		blob.Discard()
	case ctx.Err() == nil && !errors.Is(err, ErrUnavailable): // it would be as bad the next time
		blob.Discard()
	}
	return counted.Load(), again, layerError(l, err)
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

// openArchive is openArchive for a layer of the pull, whose progress tells of it.
func (p *pullProgress) openArchive(blob io.Reader, l layer, limit int64, j *precedence.Junction) (a *archive, verify func() error) {
	read := func(buf []byte) (int, error) {
		n, err := blob.Read(buf)
		if err == io.EOF {
			p.stage(l.blob.Digest, StageUnpacking)
		}
		return n, err
	}
	a = openArchive(readerFunc(read), l, limit, &p.spent, j)
	return a, func() error {
		defer p.stage(l.blob.Digest, StageSyncing)
		return a.verify()
	}
}
