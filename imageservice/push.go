package imageservice

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/imageservice/registry"
)

// A PushRequest sends an image to a registry.
type PushRequest struct {
	Image    string      // name or ID
	Target   string      // name with a tag in the registry; "" is Image, which is a name then
	Auth     *Auth       // nil: nobody
	Compress Compression // of layers that the registry does not have
}

// Push sends an image to a registry and returns the digest of its manifest there. Where the
// registry has all blobs of the manifest that the image came with, in the target's
// repository or in one that the image came from, that manifest is pushed and keeps its
// digest. Else layers are made again from the disk, and the manifest is a new one with the
// same configuration. Errors: this package's (ErrNoArchive), snapshot's, the context's, or the disk's.
// It may be called again.
func (s *Service) Push(ctx context.Context, req PushRequest) (digest.Digest, error) {
	named, err := parseName(PushName(req))
	if err != nil {
		return "", fmt.Errorf("push: %w", err)
	}
	d, err := s.push(ctx, req, named)
	if err != nil {
		return "", fmt.Errorf("push %s: %w", named, err)
	}
	klog.FromContext(ctx).Info("Pushed an image", "image", req.Image, "to", named.String(), "digest", d)
	return d, nil
}

// PushName is where a request goes.
func PushName(req PushRequest) string {
	if req.Target != "" {
		return req.Target
	}
	return req.Image
}

func (s *Service) push(ctx context.Context, req PushRequest, named reference.Named) (digest.Digest, error) {
	tagged, ok := named.(reference.NamedTagged)
	if !ok {
		return "", fmt.Errorf("a name with a tag is wanted, not one with a digest: %w", ErrInvalidReference)
	}
	img, err := s.Get(req.Image)
	if err != nil {
		return "", err
	}
	if img.IsArtifact() {
		return "", fmt.Errorf("is an artifact: %w", ErrNoArchive)
	}
	if _, err := req.Compress.writer(&counter{}); err != nil {
		return "", err
	}
	cred, err := req.Auth.credential()
	if err != nil {
		return "", err
	}
	target, err := s.registry.Target(named, cred)
	if err != nil {
		return "", err
	}
	defer target.Close()
	keys := guardKeys(img.DiffIDs)
	if err := s.guard.hold(ctx, keys); err != nil {
		return "", err
	}
	defer s.guard.release(keys)
	rec, ok := s.store.record(img.ID)
	if !ok {
		return "", ErrNotFound // it has just gone
	}
	p := &pushing{service: s, target: target, rec: rec, from: repositoriesOf(img, named), how: req.Compress,
		progress: &pullProgress{image: named.String(), work: "pushing", since: time.Now()}}
	p.progress.now(StageResolving)
	s.progress.add(p.progress)
	defer s.progress.remove(p.progress)
	return p.run(ctx, tagged.Tag())
}

// repositoriesOf lists the other repositories of named's registry that an image is known from.
func repositoriesOf(img Image, named reference.Named) (out []string) {
	for _, name := range slices.Concat(img.Tags, img.Digests) {
		from, err := reference.ParseNormalizedNamed(name)
		if err != nil || reference.Domain(from) != reference.Domain(named) || reference.Path(from) == reference.Path(named) {
			continue
		}
		if !slices.Contains(out, reference.Path(from)) {
			out = append(out, reference.Path(from))
		}
	}
	return out
}

// A pushing is a push under way.
type pushing struct {
	service  *Service
	target   *registry.Target
	rec      record
	from     []string // repositories of the registry that may have the blobs
	how      Compression
	progress *pullProgress
}

func (p *pushing) run(ctx context.Context, tag string) (digest.Digest, error) {
	old, err := p.service.store.documents(p.rec)
	if err != nil {
		return "", err
	}
	p.progress.begin(old.doc)
	whole := true
	for _, l := range old.doc.layers {
		there, err := p.has(ctx, l.Digest)
		if err != nil {
			return "", err
		}
		if whole = whole && there; !whole {
			break
		}
	}
	manifest := old.manifest
	if !whole {
		if manifest, err = p.layers(ctx, old); err != nil {
			return "", err
		}
	}
	if err := p.config(ctx, old.config); err != nil {
		return "", fmt.Errorf("configuration: %w", err)
	}
	p.progress.now(StageCommitting)
	return digest.FromBytes(manifest), p.target.PushManifest(ctx, tag, mediaTypeOf(manifest), manifest)
}

// has tells whether the registry has a blob, or can take it from another of its repositories.
func (p *pushing) has(ctx context.Context, d digest.Digest) (bool, error) {
	there, err := p.target.HasBlob(ctx, d)
	for _, from := range p.from {
		if there || err != nil {
			break
		}
		if there, err = p.target.Mount(ctx, d, from); errors.Is(err, ErrUnauthorized) {
			there, err = false, nil // to read there; then it is sent
		}
	}
	return there, err
}

// layers sends what the registry lacks, one after the other, and returns the manifest.
func (p *pushing) layers(ctx context.Context, old description) ([]byte, error) {
	var sent []ocispec.Descriptor
	done := map[digest.Digest]ocispec.Descriptor{}
	for i, diffID := range p.rec.image.DiffIDs {
		desc, ok := done[diffID]
		if !ok {
			var err error
			if desc, err = p.layer(ctx, diffID, old.doc.layers[i].Digest); err != nil {
				return nil, fmt.Errorf("layer %s: %w", diffID, err)
			}
			done[diffID] = desc
		}
		sent = append(sent, desc)
		p.progress.done.Add(1)
		p.progress.stage(old.doc.layers[i].Digest, StageDone)
	}
	return manifestOf(old, sent)
}

// layer makes and sends one layer. shown is the blob that progress knows it by.
func (p *pushing) layer(ctx context.Context, diffID, shown digest.Digest) (ocispec.Descriptor, error) {
	p.progress.stage(shown, StagePacking)
	desc, file, err := p.service.pack(ctx, diffID, p.how)
	if err != nil {
		return desc, err
	}
	defer file.Close()
	p.progress.stage(shown, StageUploading)
	p.progress.from(shown, p.target.Host)
	there, err := p.has(ctx, desc.Digest)
	if there || err != nil {
		p.progress.bytes.Add(desc.Size)
		return desc, err
	}
	return desc, p.target.PushBlob(ctx, desc, file, func(n int64) { p.progress.bytes.Add(n) })
}

func (p *pushing) config(ctx context.Context, data []byte) error {
	desc := ocispec.Descriptor{Digest: p.rec.image.ID, Size: int64(len(data))}
	there, err := p.has(ctx, desc.Digest)
	if there || err != nil {
		return err
	}
	return p.target.PushBlob(ctx, desc, bytes.NewReader(data), func(int64) {})
}
