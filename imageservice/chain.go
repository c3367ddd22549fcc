package imageservice

import (
	"context"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/snapshot"
)

// addLayerFunc is the driver's AddLayer, or what stands for it.
type addLayerFunc func(ctx context.Context, diffID digest.Digest, tar io.Reader, verify func() error) error

// adder is how l is added.
func (s *Service) adder(l layer) addLayerFunc {
	if l.add != nil {
		return l.add
	}
	return s.layers.AddLayer
}

// unpacks refuses a layer that only a proxy snapshotter can read.
func (l layer) unpacks() error {
	if l.file == "" && l.blob.MediaType == mediaTypeNydusBlob {
		return fmt.Errorf("media type %s, for a node whose snapshot.driver is nydus-snapshotter; if it is, look at that one's log: %w", mediaTypeNydusBlob, ErrUnsupported)
	}
	return nil
}

// addChain adds layers, base first, to a driver that wants them so, and that may know where
// to get some of them: those are not fetched here. What such a driver has of a layer is not
// compared with its digests; that is for the driver to do.
func (s *Service) addChain(ctx context.Context, driver snapshot.Chains, fetch fetcher, layers []layer, p *pullProgress) error {
	c := snapshot.Chain{Ref: p.image}
	missing := map[int]int64{} // of the layers' bytes, those that p has not counted
	for i, l := range layers {
		c.Manifest = l.manifest
		c.Layers = append(c.Layers, snapshot.ChainLayer{DiffID: l.diffID, Blob: l.blob.Digest, Annotations: l.blob.Annotations})
		missing[i] = l.blob.Size
		if l.file != "" { // no archive: nobody else makes one of it
			c.Ref = ""
		}
	}
	err := driver.AddChain(ctx, c, func(ctx context.Context, i int, add snapshot.AddFunc) error {
		l := layers[i]
		if err := l.unpacks(); err != nil {
			return err
		}
		l.add = func(ctx context.Context, _ digest.Digest, tar io.Reader, verify func() error) error {
			return add(ctx, tar, verify)
		}
		n, err := fetch(ctx, l)
		missing[i] -= n
		return err
	})
	if err != nil {
		return err
	}
	for i, l := range layers {
		s.candidates.spare(l.diffID)
		p.stage(l.blob.Digest, StageDone)
		p.bytes.Add(missing[i])
	}
	p.done.Store(int32(len(layers)))
	return nil
}
