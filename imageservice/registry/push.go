package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// storingWithin is how long a registry may take to answer when it has got a blob: it hashes
// and stores it first. For all else it has as long as when it is asked for something.
const storingWithin = 10 * time.Minute

// blobType is what a blob is sent as.
const blobType = "application/octet-stream"

// A patient transport sends blobs by storing, which waits for within for what becomes of them.
type patient struct {
	http.RoundTripper
	storing *http.Transport
	within  time.Duration
}

// RoundTrip implements http.RoundTripper.
func (p *patient) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodPut || req.Header.Get("Content-Type") != blobType {
		return p.RoundTripper.RoundTrip(req)
	}
	ctx, cancel := context.WithCancelCause(req.Context()) // which ends with the request's
	var mu sync.Mutex
	var timer *time.Timer
	var answered bool
	resp, err := p.storing.RoundTrip(req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(info httptrace.WroteRequestInfo) {
			mu.Lock()
			defer mu.Unlock()
			if info.Err == nil && timer == nil && !answered {
				timer = time.AfterFunc(p.within, func() { cancel(errNotStored) })
			}
		},
	})))
	mu.Lock()
	defer mu.Unlock()
	answered = true
	if timer != nil {
		timer.Stop()
	}
	if err != nil && context.Cause(ctx) == errNotStored {
		err = errNotStored
	}
	return resp, err
}

// errNotStored is that a registry has got a blob and does not say what has become of it.
var errNotStored = fmt.Errorf("got all of it and did not answer within %s", storingWithin)

// A Target is a repository to push to: the one host of it that has the capability
// "push" and comes first. Others are not tried, since an image must not be half on one and
// half on another. It is safe for concurrent use. Close it.
type Target struct {
	repo  *Repository
	host  *host
	blobs *patient
}

// Target opens the repository of name to push to it with the credential cred. It makes no
// connection. [ErrConfig]: hosts.toml, or no host takes pushes.
func (c *Client) Target(name reference.Named, cred Credential) (*Target, error) {
	r, err := c.Repository(name, cred)
	if err != nil {
		return nil, err
	}
	for _, h := range r.hosts {
		if h.push {
			blobs := &patient{h.transport, h.transport.Clone(), storingWithin}
			blobs.storing.ResponseHeaderTimeout = 0
			h.retrier.next = blobs
			return &Target{r, h, blobs}, nil
		}
	}
	r.Close()
	return nil, &hostError{text: r.domain + "/" + r.path + ": hosts.toml: no host has the capability push", kind: ErrConfig}
}

// Close lets go of idle connections.
func (t *Target) Close() {
	t.repo.Close()
	t.blobs.storing.CloseIdleConnections()
}

// Host is the host that is pushed to.
func (t *Target) Host() string { return t.host.name }

// HasBlob tells whether the repository has a blob.
func (t *Target) HasBlob(ctx context.Context, d digest.Digest) (bool, error) {
	what := "blob " + d.String()
	resp, err := t.send(ctx, http.MethodHead, "/blobs/"+d.String(), nil, "", nil)
	if err != nil {
		return false, t.repo.netError(ctx, t.host, what, err)
	}
	resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return true, nil
	case http.StatusNotFound:
		return false, nil
	}
	return false, t.repo.status(t.host, resp, what, false)
}

// Mount has the registry take a blob from another repository of its own, without a transfer.
// It is false when the registry does not do that, or has no such blob there.
func (t *Target) Mount(ctx context.Context, d digest.Digest, from string) (bool, error) {
	what := "blob " + d.String()
	ctx = auth.AppendScopesForHost(ctx, t.host.url.Host, "repository:"+from+":pull")
	resp, err := t.send(ctx, http.MethodPost, "/blobs/uploads/", url.Values{"mount": {d.String()}, "from": {from}}, "", nil)
	if err != nil {
		return false, t.repo.netError(ctx, t.host, what, err)
	}
	resp.Body.Close()
	// 202 begins an upload that nobody finishes; registries let go of those.
	return resp.StatusCode == http.StatusCreated, nil
}

// PushBlob uploads a blob of desc's digest and size: POST, then one PUT (distribution
// specification, "Pushing a blob monolithically"). data is read again when that is tried
// again; read is told how many bytes of it are sent, and, as a negative number, how many
// of them were in vain.
func (t *Target) PushBlob(ctx context.Context, desc ocispec.Descriptor, data io.ReaderAt, read func(int64)) error {
	what := "blob " + desc.Digest.String()
	resp, err := t.send(ctx, http.MethodPost, "/blobs/uploads/", nil, "", nil)
	if err != nil {
		return t.repo.netError(ctx, t.host, what, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		return t.repo.status(t.host, resp, what, true)
	}
	to, err := t.uploadURL(resp)
	if err != nil {
		return t.repo.fail(t.host, ErrCorrupt, what, err.Error())
	}
	query := to.Query()
	query.Set("digest", desc.Digest.String())
	to.RawQuery = query.Encode()
	var total atomic.Int64
	body := func() (io.ReadCloser, error) {
		read(-total.Swap(0)) // of an earlier try
		count := func(n int64) {
			total.Add(n)
			read(n)
		}
		return io.NopCloser(upload{io.NewSectionReader(data, 0, desc.Size), count}), nil
	}
	put, err := t.exchange(ctx, http.MethodPut, to, blobType, desc.Size, body)
	if err != nil {
		return t.repo.netError(ctx, t.host, what, err)
	}
	defer put.Body.Close()
	if put.StatusCode != http.StatusCreated {
		return t.repo.status(t.host, put, what, true)
	}
	return nil
}

// PushManifest stores a manifest under a tag or its digest.
func (t *Target) PushManifest(ctx context.Context, ref, mediaType string, data []byte) error {
	what := "manifest " + ref
	resp, err := t.send(ctx, http.MethodPut, "/manifests/"+ref, nil, mediaType, data)
	if err != nil {
		return t.repo.netError(ctx, t.host, what, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		return t.repo.status(t.host, resp, what, true)
	}
	if d := resp.Header.Get("Docker-Content-Digest"); d != "" && d != digest.FromBytes(data).String() {
		return t.repo.fail(t.host, ErrCorrupt, what, "the host says it has stored another one")
	}
	return nil
}

// uploadURL is where the registry wants a blob. It may be elsewhere, and may be relative.
func (t *Target) uploadURL(resp *http.Response) (*url.URL, error) {
	to, err := resp.Location()
	if err != nil {
		return nil, errors.New("does not say where it wants the upload")
	}
	if to.Scheme != "https" && to.Scheme != t.host.url.Scheme {
		return nil, fmt.Errorf("wants the upload by %.10q", to.Scheme)
	}
	return to, nil
}

// send makes a request about a path of the repository.
func (t *Target) send(ctx context.Context, method, path string, query url.Values, mediaType string, data []byte) (*http.Response, error) {
	u, err := t.host.at(ctx, path, query)
	if err != nil {
		return nil, &url.Error{Op: method, Err: err}
	}
	body := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	return t.exchange(ctx, method, &u, mediaType, int64(len(data)), body)
}

// exchange makes one request. Only the host itself is shown credentials and the headers of
// hosts.toml.
func (t *Target) exchange(ctx context.Context, method string, u *url.URL, mediaType string, size int64, body func() (io.ReadCloser, error)) (*http.Response, error) {
	ctx = auth.AppendScopesForHost(ctx, u.Host, "repository:"+t.host.repo+":pull,push")
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, &url.Error{Op: method, Err: errors.New("not a URL")}
	}
	if size > 0 {
		if req.Body, err = body(); err != nil {
			return nil, err
		}
		req.GetBody, req.ContentLength = body, size
	}
	if mediaType != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	if !sameOrigin(u, t.host.url) {
		req.Header.Set("User-Agent", "berth")
		return t.host.auth.Client.Do(req)
	}
	return t.host.do(req)
}

// An upload is a blob being sent, counted.
type upload struct {
	from io.Reader
	sent func(int64)
}

// Read implements io.Reader.
func (u upload) Read(p []byte) (int, error) {
	n, err := u.from.Read(p)
	u.sent(int64(n))
	return n, err
}
