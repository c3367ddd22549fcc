package imageservice

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/imageservice/registry"
	"github.com/berthd/berth/snapshot"
)

// A PullRequest asks for an image.
type PullRequest struct {
	Image string // name with tag or digest; "busybox" is docker.io/library/busybox:latest
	Auth  *Auth  // nil: the node's own credentials, if it has any for the registry
	For   string // who wants it, for Progress; "" is nobody in particular
}

// A pullKey names a pull under way. Pulls of one name with different credentials are
// different pulls: being let in is not contagious.
type pullKey struct {
	name string
	cred registry.Credential
}

// unavailable puts the prefix before an error's text that kubelet looks for; it must
// be the very first bytes (KEP-3542, cri-api/pkg/errors).
type unavailable struct{ error }

func (e unavailable) Error() string { return "RegistryUnavailable: " + e.error.Error() }
func (e unavailable) Unwrap() error { return e.error }

// maxNesting is how many indexes may lead to a manifest.
const maxNesting = 3

// Pull makes an image be here. The registry is always asked, about the tag or for leave; what is here
// already is not transferred. Pulls of the same name with the same credentials
// share one transfer, and pulls of different images share their common layers'; it goes on as
// long as anybody waits for it. Errors: this package's, the context's, or the disk's.
func (s *Service) Pull(ctx context.Context, req PullRequest) (Image, error) {
	named, err := parseName(req.Image)
	if err != nil {
		return Image{}, err
	}
	cred, err := req.Auth.credential()
	if err != nil {
		return Image{}, fmt.Errorf("pull %s: %w", named, err)
	}
	defer s.progress.ask(named.String(), req.For)()
	id, _, err := s.pulls.do(ctx, pullKey{named.String(), cred}, func(ctx context.Context) (digest.Digest, error) {
		return s.pull(ctx, named, cred)
	})
	if err != nil {
		err = fmt.Errorf("pull %s: %w", named, err)
		if errors.Is(err, ErrUnavailable) {
			err = unavailable{err}
		}
		return Image{}, err
	}
	return s.Get(id.String())
}

// pull is one transfer.
func (s *Service) pull(ctx context.Context, named reference.Named, cred registry.Credential) (digest.Digest, error) {
	p := &pullProgress{image: named.String(), work: "pulling", since: time.Now()}
	p.now(StageResolving)
	s.progress.add(p)
	defer s.progress.remove(p)

	repo, err := s.registry.Repository(named, cred)
	if err != nil {
		return "", err
	}
	defer repo.Close()
	target, err := repo.Resolve(ctx, tagOrDigest(named))
	if err != nil {
		return "", err
	}
	tags, digests, err := namesFor(named, target.Digest)
	if err != nil {
		return "", err
	}
	if id, ok, err := s.present(ctx, target.Digest, tags, digests); ok || err != nil {
		return id, err
	}
	d, err := s.pullNew(ctx, repo, ocispec.Descriptor{Digest: target.Digest, Size: -1}, p)
	if err != nil {
		return "", err
	}
	d.rec.image.Tags, d.rec.image.Digests = tags, digests
	fetch := func(ctx context.Context, l layer) (int64, error) { return s.fetchLayer(ctx, repo, l, p) }
	return d.rec.image.ID, s.commit(ctx, fetch, d, p)
}

// namesFor lists the names that a pull of named gives the image.
func namesFor(named reference.Named, target digest.Digest) (tags, digests []string, err error) {
	if tagged, ok := named.(reference.NamedTagged); ok {
		tags = []string{tagged.String()}
	}
	canonical, err := reference.WithDigest(reference.TrimNamed(named), target)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", err, ErrCorrupt)
	}
	return tags, []string{canonical.String()}, nil
}

// present finds the image that target, a manifest's or an index's digest, is known to stand for,
// complete with layers, and gives it names.
func (s *Service) present(ctx context.Context, target digest.Digest, tags, digests []string) (digest.Digest, bool, error) {
	for _, img := range s.store.view.Load().images {
		if !slices.ContainsFunc(img.Digests, func(name string) bool { return hasDigest(name, target) }) {
			continue
		}
		keys := guardKeys(img.DiffIDs)
		if err := s.guard.hold(ctx, keys); err != nil {
			return "", false, err
		}
		defer s.guard.release(keys)
		if err := s.store.verify(img.ID); err != nil && !errors.Is(err, snapshot.ErrDamaged) {
			return "", false, err
		} else if err != nil || ready(ctx, s.layers, img.DiffIDs) != nil {
			return "", false, nil // then it is pulled like a new one
		}
		ok, err := s.store.name(img.ID, tags, digests)
		return img.ID, ok, err
	}
	return "", false, nil
}

func hasDigest(name string, d digest.Digest) bool {
	n := len(name) - len(d)
	return n > 0 && name[n:] == d.String() && name[n-1] == '@'
}

// A description is what describes an image: its documents, as they are and parsed, and its record.
type description struct {
	rec      record
	manifest []byte
	doc      document // the manifest
	config   []byte   // nil for an artifact
}

// pullNew fetches the documents of an image: manifest, by way of an index as the case may be, and configuration.
func (s *Service) pullNew(ctx context.Context, repo documents, target ocispec.Descriptor, p *pullProgress) (d description, err error) {
	doc, manifest, manifestDigest, err := fetchManifest(ctx, repo, target)
	if err != nil {
		return d, err
	}
	d.doc, d.manifest = doc, manifest
	if doc.isArtifact() {
		d.rec = record{image: doc.artifactImage(manifestDigest, manifest), manifest: manifestDigest, pulled: now()}
		p.begin(doc)
		return d, nil
	}
	if d.config, err = repo.Bytes(ctx, doc.config); err != nil {
		return d, fmt.Errorf("configuration: %w", err)
	}
	parsed, err := parseConfig(d.config)
	if err != nil {
		return d, err
	}
	if len(parsed.diffIDs) != len(doc.layers) {
		return d, fmt.Errorf("configuration: %d diff IDs for %d layers: %w", len(parsed.diffIDs), len(doc.layers), ErrCorrupt)
	}
	p.begin(doc)
	d.rec = record{
		image: Image{ID: doc.config.Digest, Size: doc.config.Size + doc.layerBytes(), DiffIDs: parsed.diffIDs,
			Config: parsed.config, Platform: parsed.platform},
		manifest: manifestDigest, pulled: now(),
	}
	return d, nil
}

// now is the time as the index has it.
func now() time.Time { return time.Now().UTC().Truncate(time.Second) }

// documents are where an image's documents come from: a registry's repository, or an
// archive. What they return has the digest that was asked for.
type documents interface {
	Manifest(ctx context.Context, d digest.Digest) (data []byte, mediaType string, err error)
	Bytes(ctx context.Context, desc ocispec.Descriptor) ([]byte, error)
}

// fetchManifest follows target, whose size is -1 when it is not known, to the manifest for
// this machine and checks it.
func fetchManifest(ctx context.Context, repo documents, target ocispec.Descriptor) (document, []byte, digest.Digest, error) {
	next := target
	for range maxNesting {
		data, contentType, err := repo.Manifest(ctx, next.Digest)
		if err != nil {
			return document{}, nil, "", err
		}
		if next.Size >= 0 && next.Size != int64(len(data)) {
			return document{}, nil, "", fmt.Errorf("manifest %s: %d bytes, not %d as its index says: %w", next.Digest, len(data), next.Size, ErrCorrupt)
		}
		doc, err := parseDocument(data, contentType, next.MediaType)
		if err != nil {
			return document{}, nil, "", fmt.Errorf("%s: %w", next.Digest, err)
		}
		if !doc.isIndex {
			if err := doc.check(); err != nil {
				return document{}, nil, "", fmt.Errorf("%s: %w", next.Digest, err)
			}
			return doc, data, next.Digest, nil
		}
		if next, err = choose(doc.index); err != nil {
			return document{}, nil, "", err
		}
		if err := registry.CheckDigest(next.Digest); err != nil {
			return document{}, nil, "", fmt.Errorf("index: %w", err)
		}
	}
	return document{}, nil, "", fmt.Errorf("%s: more than %d indexes in a row: %w", target.Digest, maxNesting, ErrUnsupported)
}

// commit brings the layers of an image here and writes it down. The layers, and the seal, are
// held from before they are looked for until after the index names them.
func (s *Service) commit(ctx context.Context, fetch fetcher, d description, p *pullProgress) error {
	rec := d.rec
	keys := guardKeys(rec.image.DiffIDs)
	if err := s.guard.hold(ctx, keys); err != nil {
		return err
	}
	defer s.guard.release(keys)
	defer s.remeasure(ctx) // also of a failed pull: its whole layers stay
	var layers []layer
	for i, blob := range d.doc.layers {
		l := layer{blob: blob, diffID: rec.image.DiffIDs[i], manifest: rec.manifest}
		if rec.image.IsArtifact() {
			l.file = rec.image.Files[i]
		}
		layers = append(layers, l)
	}
	if err := s.addSealed(ctx, fetch, layers, rec.image.DiffIDs, p); err != nil {
		return err
	}
	p.now(StageCommitting)
	begin := time.Now()
	if err := s.store.put(rec, d.manifest, d.config); err != nil {
		return err
	}
	p.spent.commit.since(begin)
	klog.FromContext(ctx).V(1).Info("Pulled an image", append([]any{"image", p.image, "id", rec.image.ID, "bytes", rec.image.Size, "took", time.Since(p.since)}, p.spent.pairs()...)...)
	return nil
}

// A fetcher brings one layer to the disk, and returns how many of its bytes it has counted
// in the pull's progress.
type fetcher func(ctx context.Context, l layer) (int64, error)

// addLayers adds layers side by side, the largest first: it takes longest.
func (s *Service) addLayers(ctx context.Context, fetch fetcher, layers []layer, p *pullProgress) error {
	if driver, ok := s.layers.(snapshot.Chains); ok {
		return s.addChain(ctx, driver, fetch, layers, p)
	}
	for _, l := range layers {
		if err := l.unpacks(); err != nil {
			return fmt.Errorf("layer %s: %w", l.blob.Digest, err)
		}
	}
	layers = slices.Clone(layers)
	slices.SortStableFunc(layers, func(a, b layer) int { return int(min(max(b.blob.Size-a.blob.Size, -1), 1)) })
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(s.parallel)
	for _, l := range layers {
		group.Go(func() error {
			if err := groupCtx.Err(); err != nil {
				return err
			}
			if err := s.addLayer(groupCtx, fetch, l, p); err != nil {
				return err
			}
			p.stage(l.blob.Digest, StageDone)
			p.done.Add(1)
			return nil
		})
	}
	return group.Wait()
}
