package snapshot

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"
)

// A Chain is an image's layers, base first, and where they come from, for drivers that
// fetch some of it themselves.
type Chain struct {
	Ref      string        // the image's name, with the tag or digest it is pulled by; "": nobody else can fetch it
	Manifest digest.Digest // that lists the layers
	Layers   []ChainLayer
}

// A ChainLayer is one layer as its manifest has it.
type ChainLayer struct {
	DiffID      digest.Digest
	Blob        digest.Digest
	Annotations map[string]string // an image's words: hostile
}

// DiffIDs are those of the layers.
func (c Chain) DiffIDs() []digest.Digest {
	out := make([]digest.Digest, len(c.Layers))
	for i, l := range c.Layers {
		out[i] = l.DiffID
	}
	return out
}

// Chains is a Layers whose layers stand on those below them, and may be somewhere else
// until they are needed. Its AddLayer is ErrUnsupported.
type Chains interface {
	Layers
	// AddChain sees to it that the layers of c are there. For each that has to be brought,
	// base first, it calls fetch with the layer's index and a function that is AddLayer for
	// that layer, to be called until it succeeds. When it returns nil, all of them are there
	// to stay; after an error, those that were finished.
	AddChain(ctx context.Context, c Chain, fetch func(ctx context.Context, i int, add AddFunc) error) error
}

// An AddFunc is AddLayer for one layer.
type AddFunc func(ctx context.Context, tar io.Reader, verify func() error) error
