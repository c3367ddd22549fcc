package imageservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/imageservice/imagefile"
	"github.com/berthd/berth/imageservice/registry"
	"github.com/berthd/berth/snapshot"
	"github.com/berthd/berth/snapshot/durable"
)

// An ImportRequest is an archive of images: an OCI image layout, or what docker save writes.
type ImportRequest struct {
	From io.Reader
	Name string // given to its one image in place of the names in the archive; "" is none
}

// An arrival is an image of an archive: what a pull would know of it before the layers.
type arrival struct {
	description
	progress *pullProgress
}

// Import makes the images of an archive be here, under the names that it has for them. They are
// read as a registry's: documents and layers by the same code, with the same caps. The
// archive is spooled to a file without a name, since what describes it may come last.
// When it fails, the images before the one that failed are here and of the others nothing is
// left. Errors: this package's, From's own, the context's, or the disk's.
func (s *Service) Import(ctx context.Context, req ImportRequest) ([]Image, error) {
	p := &pullProgress{image: "an archive", work: "importing", since: time.Now()}
	p.now(StageReading)
	s.progress.add(p)
	defer s.progress.remove(p)
	spool, err := durable.Scratch(s.root)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	defer spool.Close()
	a, err := imagefile.Read(ctx, req.From, spool, s.limit)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	all, blobs, err := s.arrivals(ctx, a, req.Name)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	var images []Image
	for _, one := range all {
		img, err := s.receive(ctx, one, blobs)
		if err != nil {
			_ = s.Collect(context.WithoutCancel(ctx)) // else the next collection does
			return images, fmt.Errorf("import %s: %w", one.progress.image, err)
		}
		images = append(images, img)
	}
	return images, nil
}

// receive adds one image of an archive.
func (s *Service) receive(ctx context.Context, one arrival, blobs *archiveBlobs) (Image, error) {
	p := one.progress
	s.progress.add(p)
	defer s.progress.remove(p)
	id := one.rec.image.ID
	known, err := s.Get(id.String())
	if err == nil {
		err = s.store.verify(id)
	}
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, snapshot.ErrDamaged) {
		return Image{}, err
	}
	if err == nil && known.IsArtifact() == one.rec.image.IsArtifact() {
		// It keeps the manifest that its registry knows it by.
		ok, err := s.store.name(id, one.rec.image.Tags, nil)
		if err != nil {
			return Image{}, err
		}
		if ok {
			return s.Get(id.String())
		}
	}
	fetch := func(ctx context.Context, l layer) (int64, error) { return s.unpackBlob(ctx, blobs, l, p) }
	if err := s.commit(ctx, fetch, one.description, p); err != nil {
		return Image{}, err
	}
	klog.FromContext(ctx).Info("Imported an image", "image", p.image, "id", id)
	return s.Get(id.String())
}

// unpackBlob is fetchLayer for a layer that is in an archive.
func (s *Service) unpackBlob(ctx context.Context, blobs *archiveBlobs, l layer, p *pullProgress) (int64, error) {
	p.stage(l.blob.Digest, StageQueued)
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	blob, err := blobs.open(l.blob)
	if err != nil {
		return 0, fmt.Errorf("layer %s: %w", l.blob.Digest, err)
	}
	p.stage(l.blob.Digest, StageUnpacking)
	var counted atomic.Int64
	counting := func(buf []byte) (int, error) {
		n, err := blob.Read(buf)
		counted.Add(int64(n))
		p.bytes.Add(int64(n))
		return n, err
	}
	a, verify := p.openArchive(readerFunc(counting), l, s.limit(l.blob.Size), &s.junction)
	err = s.adder(l)(ctx, l.diffID, a, verify)
	a.close()
	if err == nil {
		s.candidates.add(l.diffID)
		return counted.Load(), nil
	}
	if a.err != nil && ctx.Err() == nil {
		err = a.err // the driver may only have seen its echo
	}
	return counted.Load(), layerError(l, err)
}

// arrivals reads the documents of all images of an archive that are for this machine.
func (s *Service) arrivals(ctx context.Context, a *imagefile.Archive, name string) ([]arrival, *archiveBlobs, error) {
	blobs := &archiveBlobs{archive: a, made: map[digest.Digest][]byte{}, at: map[digest.Digest]string{}, described: map[string]ocispec.Descriptor{}}
	read := blobs.docker
	if a.Has(ocispec.ImageLayoutFile) || a.Has(ocispec.ImageIndexFile) { // docker save writes both forms, of the same images
		read = blobs.layout
	}
	listed, err := read()
	if err != nil {
		return nil, nil, err
	}
	if listed, err = rename(listed, name); err != nil {
		return nil, nil, err
	}
	var all []arrival
	for _, l := range listed {
		one, err := s.arrival(ctx, blobs, l)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", l.names[0], err)
		}
		all = append(all, one)
	}
	return all, blobs, nil
}

// arrival reads one image's documents, and looks whether the archive has what else it needs.
func (s *Service) arrival(ctx context.Context, blobs *archiveBlobs, l listedImage) (one arrival, err error) {
	one.progress = &pullProgress{image: l.names[0].String(), work: "importing", since: time.Now()}
	if one.description, err = s.pullNew(ctx, blobs, l.target, one.progress); err != nil {
		return one, err
	}
	for i, blob := range one.doc.layers {
		if s.layers.HasLayer(one.rec.image.DiffIDs[i]) {
			continue // and need not be in the archive
		}
		if _, err := blobs.open(blob); err != nil {
			return one, fmt.Errorf("layer %s: %w", blob.Digest, err)
		}
	}
	for _, name := range l.names {
		tags, digests, err := namesFor(name, l.target.Digest)
		if err != nil {
			return one, err
		}
		one.rec.image.Tags = append(one.rec.image.Tags, tags...)
		one.rec.image.Digests = append(one.rec.image.Digests, digests...)
	}
	slices.Sort(one.rec.image.Digests)
	one.rec.image.Digests = slices.Compact(one.rec.image.Digests)
	return one, nil
}

// errNoName says what to do about an image that nobody has named.
func errNoName(n int) error {
	if n == 1 {
		return fmt.Errorf("the archive does not name its image: say its name (--name): %w", ErrInvalidReference)
	}
	return fmt.Errorf("the archive has an image that it does not name: %w", ErrInvalidReference)
}

// rename gives the one image of an archive the name, if there is one, and makes sure that
// all have one, and none of it twice.
func rename(listed []listedImage, name string) ([]listedImage, error) {
	if name != "" {
		named, err := parseName(name)
		if err != nil {
			return nil, err
		}
		if len(listed) != 1 {
			return nil, fmt.Errorf("the archive has %d images, and one cannot give the same name to all: %w", len(listed), ErrInvalidReference)
		}
		if _, byDigest := named.(reference.Canonical); byDigest {
			return nil, fmt.Errorf("%s: give a name with a tag: %w", named, ErrInvalidReference)
		}
		listed[0].names = []reference.Named{named}
	}
	taken := map[string]bool{}
	for _, l := range listed {
		if len(l.names) == 0 {
			return nil, errNoName(len(listed))
		}
		for _, n := range l.names {
			if taken[n.String()] {
				return nil, fmt.Errorf("the archive has two images called %s: %w", n, ErrCorrupt)
			}
			taken[n.String()] = true
		}
	}
	if len(listed) == 0 {
		return nil, fmt.Errorf("the archive has no image: %w", ErrCorrupt)
	}
	return listed, nil
}

// An archiveBlobs is the blobs of an archive by their digests.
type archiveBlobs struct {
	archive *imagefile.Archive
	made    map[digest.Digest][]byte // documents that are not in it
	at      map[digest.Digest]string // names of blobs that are not where a layout has them

	described map[string]ocispec.Descriptor // by names: a layer is hashed once, however often it is listed
	documents int64                         // bytes of those that have been read
}

// Manifest implements documents.
func (b *archiveBlobs) Manifest(ctx context.Context, d digest.Digest) ([]byte, string, error) {
	data, err := b.read(d, maxManifest)
	return data, "", err
}

// Bytes implements documents.
func (b *archiveBlobs) Bytes(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	data, err := b.read(desc.Digest, desc.Size)
	if err == nil && int64(len(data)) != desc.Size {
		err = fmt.Errorf("blob %s: %d bytes, not %d: %w", desc.Digest, len(data), desc.Size, ErrCorrupt)
	}
	return data, err
}

// read is a blob of at most limit bytes with the right digest.
func (b *archiveBlobs) read(d digest.Digest, limit int64) ([]byte, error) {
	if data, ok := b.made[d]; ok {
		return data, b.afford(data)
	}
	if err := registry.CheckDigest(d); err != nil {
		return nil, err
	}
	data, err := b.archive.Bytes(b.name(d), limit)
	if err != nil {
		return nil, missing(err)
	}
	if got := digest.FromBytes(data); got != d {
		return nil, fmt.Errorf("blob %s: content has digest %s: %w", d, got, ErrCorrupt)
	}
	return data, b.afford(data)
}

// afford refuses a document when there are too many of them: they, and what is made of them, are in
// memory until all images are here. One that is read again counts again.
func (b *archiveBlobs) afford(document []byte) error {
	if b.documents += int64(len(document)); b.documents > maxDocuments {
		return fmt.Errorf("manifests and configurations of more than %d bytes in all; import the images in several archives: %w", maxDocuments, ErrTooLarge)
	}
	return nil
}

func (b *archiveBlobs) name(d digest.Digest) string {
	if name, ok := b.at[d]; ok {
		return name
	}
	return imagefile.BlobName(d)
}

// open reads a blob without verifying it.
func (b *archiveBlobs) open(desc ocispec.Descriptor) (io.Reader, error) {
	r, err := b.archive.Open(b.name(desc.Digest))
	if err != nil {
		return nil, missing(err)
	}
	if r.Size() != desc.Size {
		return nil, fmt.Errorf("%d bytes, not %d: %w", r.Size(), desc.Size, ErrCorrupt)
	}
	return r, nil
}

// missing says that what is not in an archive makes it a bad one.
func missing(err error) error {
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%v: %w", err, ErrCorrupt)
	}
	return err
}
