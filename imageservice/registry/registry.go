// Package registry reads images from OCI distribution registries and from the
// mirrors that an operator set up for them, and pushes some (push.go).
//
// A [Client] holds settings and nothing else. A [Repository] is one look at one
// repository, for one pull: it reads hosts.toml and registries.conf when it is opened, and the
// node's credentials when a host asks, so a change of those files needs no restart, and it
// remembers which hosts failed, so that a dead mirror costs one timeout a pull and not one a blob.
//
// What a registry sends is hostile. Manifests and blobs are only ever asked for
// by digest; manifests are verified here, blobs by their reader, who may
// [Blob.Reject] the hosts that sent a wrong one and ask again. Every read has a
// cap in bytes and a floor in bytes per time.
//
// Nothing is kept on disk and every call may be made again.
//
// # Whom credentials are sent to
//
// Credentials are only sent to a host that asks for them (401), never after a
// redirect to another origin, and only to a host they are meant for:
//
//   - With a server address (AuthConfig.server_address), to the host of that name.
//     When it names the registry itself, to the registry alone: no mirror.
//   - Without one, they are those of the image's registry. It gets them, and so do the
//     hosts that the registry's own directory in certs.d names, as with containerd: the
//     operator has said that these stand in for that registry. The hosts of the _default
//     directory do not: nobody said that they may have that registry's secrets.
//     (containerd sends them there, too.) registries.conf is alike: a table that names the
//     registry, and one for all below a domain (*.example.com).
//   - A host that gets none of the caller's is shown the node's own ([Options].AuthFile), which are
//     looked up by the name of the very host, never by the registry's.
//
// Errors and logs never hold a secret: an error's text is made once, where it
// happens, without URLs' queries and users and without whatever was sent as a credential, and the
// cause is not kept.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// MaxManifest is the largest manifest or index that is read, in bytes, as the
// distribution specification asks of registries ("Pushing Manifests": 4 MiB). CVE-2023-25153.
const MaxManifest = 4 << 20

// Media types of Docker's image format, version 2, schema 2.
const (
	MediaTypeDockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// Options are a client's settings. The zero value is good.
type Options struct {
	CertsDir       string // directory of hosts.toml files; "" = none
	RegistriesConf string // a containers-registries.conf(5), with its folder of the same name and ".d"; "" = none
	AuthFile       string // credentials of the node itself, in the format of Docker's config.json; "" = none
	Retry          Retry
	Stall          Stall
}

// A Client opens repositories. It is safe for concurrent use.
type Client struct {
	certsDir       string
	registriesConf string
	authFile       string
	retry          Retry
	stall          Stall
}

// New returns a client with the settings o.
func New(o Options) *Client {
	return &Client{certsDir: o.CertsDir, registriesConf: o.RegistriesConf, authFile: o.AuthFile,
		retry: o.Retry.withDefaults(), stall: o.Stall.withDefaults()}
}

// A Repository is a repository as one pull sees it, through the hosts that
// serve it. It is safe for concurrent use. Close it.
type Repository struct {
	domain string // the registry as the image's name has it
	path   string
	hosts  []*host    // in the order in which they are asked
	cred   Credential // the caller's
	retry  Retry
	stall  Stall

	secrets secrets
	got     atomic.Pointer[document] // the document a GET by tag brought in place of a HEAD
}

// A document is a manifest or an index as a registry sent it.
type document struct {
	desc ocispec.Descriptor
	data []byte
}

// Repository opens the repository of name with the credential cred (which may be
// the zero value). It reads hosts.toml and registries.conf; it makes no connection. A file that
// cannot be understood is [ErrConfig]: falling back to the registry itself might
// go around a mirror that must be used.
func (c *Client) Repository(name reference.Named, cred Credential) (*Repository, error) {
	endpoints, err := c.endpoints(name)
	if err != nil {
		return nil, err
	}
	r := &Repository{domain: reference.Domain(name), path: reference.Path(name), cred: cred, retry: c.retry, stall: c.stall}
	r.secrets.add(cred.secrets()...)
	for i, e := range endpoints {
		retry := c.retry
		if i < len(endpoints)-1 { // there is somebody else to ask
			retry.Attempts = min(retry.Attempts, 2)
			retry.MaxWait = min(retry.MaxWait, retry.Base*4)
		}
		h, err := c.newHost(r, e, retry)
		if err != nil {
			r.Close()
			return nil, err
		}
		r.hosts = append(r.hosts, h)
	}
	return r, nil
}

// Close lets go of idle connections. Blobs that are open stay usable.
func (r *Repository) Close() {
	for _, h := range r.hosts {
		h.transport.CloseIdleConnections()
	}
}

// Resolve says what ref, a tag or a digest, stands for now. A tag is only believed
// from a host with the capability "resolve". A digest is asked for as well, so
// that whoever may not read the repository is told so. Size is 0 when the host does not tell.
func (r *Repository) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	var desc ocispec.Descriptor
	want, digestErr := digest.Parse(ref)
	byDigest := digestErr == nil
	err := r.each(ctx, !byDigest, func(h *host) error {
		resp, err := r.send(ctx, h, request{method: http.MethodHead, kind: "manifests", ref: ref, accept: acceptManifest})
		if err != nil {
			return err
		}
		resp.Body.Close()
		d := digest.Digest(resp.Header.Get("Docker-Content-Digest"))
		switch {
		case resp.StatusCode == http.StatusOK && byDigest && (d == "" || d == want):
			desc = ocispec.Descriptor{Digest: want, MediaType: resp.Header.Get("Content-Type"), Size: max(resp.ContentLength, 0)}
			return nil
		case resp.StatusCode == http.StatusOK && byDigest:
			return r.fail(h, ErrCorrupt, "manifest "+ref, "the host says it is another one")
		case resp.StatusCode == http.StatusOK && d != "" && CheckDigest(d) == nil:
			desc = ocispec.Descriptor{Digest: d, MediaType: resp.Header.Get("Content-Type"), Size: max(resp.ContentLength, 0)}
			return nil
		case resp.StatusCode == http.StatusOK, resp.StatusCode == http.StatusMethodNotAllowed, resp.StatusCode == http.StatusNotImplemented:
			// No digest, or no HEAD: the document itself tells.
			doc, err := r.document(ctx, h, ref)
			if err != nil {
				return err
			}
			r.got.Store(&doc)
			desc = doc.desc
			return nil
		}
		return r.status(h, resp, "manifest "+ref, false)
	})
	return desc, err
}

// Manifest fetches the manifest or index with the digest d and verifies it. The
// media type is the one the host gave it and may be empty. A document of more
// than [MaxManifest] bytes is [ErrTooLarge].
func (r *Repository) Manifest(ctx context.Context, d digest.Digest) (data []byte, mediaType string, err error) {
	if err := CheckDigest(d); err != nil {
		return nil, "", err
	}
	if doc := r.got.Load(); doc != nil && doc.desc.Digest == d {
		return doc.data, doc.desc.MediaType, nil
	}
	var doc document
	err = r.each(ctx, false, func(h *host) error {
		var err error
		doc, err = r.document(ctx, h, d.String())
		return err
	})
	return doc.data, doc.desc.MediaType, err
}

// document reads a manifest from h by tag or digest. By digest, it is verified.
func (r *Repository) document(ctx context.Context, h *host, ref string) (document, error) {
	what := "manifest " + ref
	resp, err := r.send(ctx, h, request{method: http.MethodGet, kind: "manifests", ref: ref, accept: acceptManifest})
	if err != nil {
		return document{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return document{}, r.status(h, resp, what, true)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, MaxManifest+1))
	if err != nil {
		return document{}, r.netError(ctx, h, what, err)
	}
	if len(data) > MaxManifest {
		return document{}, r.fail(h, ErrTooLarge, what, "more than "+strconv.Itoa(MaxManifest)+" bytes")
	}
	got := digest.FromBytes(data)
	want, err := digest.Parse(ref)
	if err != nil { // a tag: the header, if any, must agree with the bytes
		want = digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	}
	if want != "" && want != got {
		return document{}, r.fail(h, ErrCorrupt, what, "content has digest "+got.String())
	}
	return document{ocispec.Descriptor{Digest: got, MediaType: resp.Header.Get("Content-Type"), Size: int64(len(data))}, data}, nil
}

// each calls do for one host after the other until one succeeds: hosts without a
// failure in the order of hosts.toml, then those that could not be reached before.
// The last host's error decides what the failure is; the others are told in its text.
func (r *Repository) each(ctx context.Context, resolve bool, do func(*host) error) error {
	var first, last []*host
	for _, h := range r.hosts {
		switch {
		case h.rejected.Load(), resolve && !h.resolve, !h.pull:
		case h.down.Load():
			last = append(last, h)
		default:
			first = append(first, h)
		}
	}
	var failed []error
	for _, h := range append(first, last...) {
		err := do(h)
		if err == nil {
			h.down.Store(false)
			return nil
		}
		if ended := ended(ctx); ended != nil {
			return fmt.Errorf("%s/%s: %w", r.domain, r.path, ended)
		}
		h.down.Store(errors.Is(err, ErrUnavailable))
		failed = append(failed, err)
	}
	if len(failed) == 0 {
		return &hostError{text: r.domain + "/" + r.path + ": hosts.toml: no host has the capability this needs", kind: ErrConfig}
	}
	return joinHosts(failed)
}

// CheckDigest refuses what is not a SHA-256 digest, and cannot name an image, a layer or a file of
// one here: [ErrCorrupt]. Others may be valid, but images are named by SHA-256 throughout Kubernetes:
// [ErrUnsupported].
func CheckDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %.100q: %w: %w", d, err, ErrCorrupt)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("digest %s: not SHA-256: %w", d, ErrUnsupported)
	}
	return nil
}
