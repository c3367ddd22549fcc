package registry

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// acceptManifest lists what may answer a question for a manifest. The star lets a registry answer
// with what it has, so that the error can say what that is.
var acceptManifest = strings.Join([]string{
	ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, MediaTypeDockerManifest, MediaTypeDockerManifestList, "*/*",
}, ", ")

// A request is a question about one thing in a repository.
type request struct {
	method string
	kind   string // manifests or blobs
	ref    string // tag or digest
	accept string
	rang   string // "" or a Range header
}

// send asks h. The answer's status is the caller's to judge; an error is already
// one of this package.
func (r *Repository) send(ctx context.Context, h *host, q request) (*http.Response, error) {
	what := strings.TrimSuffix(q.kind, "s") + " " + q.ref
	u, err := h.base(ctx)
	if err != nil {
		return nil, r.netError(ctx, h, what, &url.Error{Op: q.method, Err: err})
	}
	u.Path += "/" + h.repo + "/" + q.kind + "/" + q.ref
	if h.namespace != "" { // tells a mirror of many registries which is meant; containerd, docs/hosts.md
		u.RawQuery = url.Values{"ns": {h.namespace}}.Encode()
	}
	ctx = auth.WithScopesForHost(ctx, u.Host, "repository:"+h.repo+":pull")
	req, err := http.NewRequestWithContext(ctx, q.method, u.String(), nil)
	if err != nil {
		return nil, r.fail(h, nil, what, "not a URL")
	}
	for key, values := range h.header {
		req.Header[key] = values
	}
	req.Header.Set("Accept-Encoding", "identity") // without it any coding may come (RFC 9110, 12.5.3)
	if q.accept != "" {
		req.Header.Set("Accept", q.accept)
	}
	if q.rang != "" {
		req.Header.Set("Range", q.rang)
	}
	resp, err := h.auth.Do(req)
	if err != nil {
		return nil, r.netError(ctx, h, what, err)
	}
	return resp, nil
}
