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

// at is the URL of a path of the repository.
func (h *host) at(ctx context.Context, path string, query url.Values) (url.URL, error) {
	u, err := h.base(ctx)
	if err != nil {
		return u, err
	}
	u.Path += "/" + h.repo + path
	if query == nil {
		query = url.Values{}
	}
	if h.namespace != "" { // tells a mirror of many registries which is meant; containerd, docs/hosts.md
		query.Set("ns", h.namespace)
	}
	u.RawQuery = query.Encode()
	return u, nil
}

// do makes a request of the host itself, with the headers of hosts.toml that it does not have already.
func (h *host) do(req *http.Request) (*http.Response, error) {
	for key, values := range h.header {
		if _, ours := req.Header[key]; !ours {
			req.Header[key] = values
		}
	}
	return h.auth.Do(req)
}

// send asks h. The answer's status is the caller's to judge; an error is already
// one of this package.
func (r *Repository) send(ctx context.Context, h *host, q request) (*http.Response, error) {
	what := strings.TrimSuffix(q.kind, "s") + " " + q.ref
	u, err := h.at(ctx, "/"+q.kind+"/"+q.ref, nil)
	if err != nil {
		return nil, r.netError(ctx, h, what, &url.Error{Op: q.method, Err: err})
	}
	ctx = auth.WithScopesForHost(ctx, u.Host, "repository:"+h.repo+":pull")
	req, err := http.NewRequestWithContext(ctx, q.method, u.String(), nil)
	if err != nil {
		return nil, r.fail(h, nil, what, "not a URL")
	}
	req.Header.Set("Accept-Encoding", "identity") // without it any coding may come (RFC 9110, 12.5.3)
	if q.accept != "" {
		req.Header.Set("Accept", q.accept)
	}
	if q.rang != "" {
		req.Header.Set("Range", q.rang)
	}
	resp, err := h.do(req)
	if err != nil {
		return nil, r.netError(ctx, h, what, err)
	}
	return resp, nil
}
