package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// A host is an endpoint with its connections and its standing in one pull.
type host struct {
	name          string // host and port, for errors, with the repository if it is another than the image's name says
	url           *url.URL
	repo          string // the repository's name there
	namespace     string // what mirrors are told the registry is; "" for the registry itself
	resolve, pull bool
	push          bool
	trusted       bool // may be shown the caller's credential
	secure        bool // HTTPS with a certificate that is verified: it may not lead to less

	header    http.Header
	transport *http.Transport
	retrier   *retrier // in auth
	auth      *auth.Client

	probe   bool
	probing sync.Mutex // one probe at a time; held while the host is asked
	probed  atomic.Bool

	down     atomic.Bool // could not be reached
	rejected atomic.Bool // sent something wrong
}

// newHost sets up the connections to e, a host of r.
func (c *Client) newHost(r *Repository, e endpoint, retry Retry) (*host, error) {
	tlsConfig, err := e.tlsConfig()
	if err != nil {
		return nil, err
	}
	dialTimeout := e.dialTimeout
	if dialTimeout == 0 {
		dialTimeout = 30 * time.Second
	}
	proxy := http.ProxyFromEnvironment
	if e.proxy != nil {
		proxy = http.ProxyURL(e.proxy)
		password, _ := e.proxy.User.Password()
		r.secrets.add(Credential{Username: e.proxy.User.Username(), Password: password}.secrets()...)
	}
	for _, values := range e.header {
		r.secrets.addHeader(values)
	}
	transport := &http.Transport{
		Proxy:                 proxy,
		DialContext:           c.stall.dialer(&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}),
		TLSClientConfig:       tlsConfig,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second, // containerd#13164
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConnsPerHost:   8,
		// A layer is a file that is compressed, not a text in a compressed encoding.
		DisableCompression: true,
		// HTTP/1.1 only (no ForceAttemptHTTP2): a connection for each layer is faster than
		// streams in one, and cutting a stalled stream would leave its dead connection in use.
	}
	h := &host{
		name:    e.host,
		url:     &url.URL{Scheme: e.scheme, Host: e.host, Path: e.path},
		repo:    r.path,
		resolve: e.resolve, pull: e.pull, push: e.push,
		trusted: r.cred != (Credential{}) && r.cred.forHost(e, r.domain),
		secure:  e.scheme == "https" && !e.skipVerify,
		header:  e.header, transport: transport, probe: e.probe,
	}
	switch {
	case e.repo != "":
		h.repo = e.repo
		if e.repo != r.path || canonical(e.host) != canonical(r.domain) {
			h.name += "/" + e.repo
		}
	case canonical(e.host) != canonical(r.domain):
		h.namespace = r.domain
	}
	h.retrier = &retrier{transport, retry, c.stall, &r.secrets}
	h.auth = &auth.Client{
		Client: &http.Client{Transport: h.retrier, CheckRedirect: h.checkRedirect},
		Header: http.Header{"User-Agent": {"berth"}},
		Cache:  auth.NewCache(),
		// The auth client itself shows a credential to nobody but the host that asked.
		Credential: func(ctx context.Context, _ string) (auth.Credential, error) {
			if h.trusted {
				return r.cred.oras(), nil
			}
			if c.authFile == "" {
				return auth.EmptyCredential, nil
			}
			own, err := nodeCredential(ctx, c.authFile, h.url.Host, h.repo)
			r.secrets.add(own.secrets()...)
			return own.oras(), err
		},
		ClientID: "berth",
	}
	return h, nil
}

// checkRedirect takes the headers of hosts.toml, which may be secrets, off a request that
// leaves the host. net/http puts the first request's headers back at each hop, so all
// hops count. The auth client does the same for Authorization (GHSA-vh4v-2xq2-g5cg).
func (h *host) checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("more than 10 redirects")
	}
	if h.secure && req.URL.Scheme != "https" {
		return errors.New("redirects from https to " + req.URL.Scheme + ", which anybody on the way can read (skip_verify in its hosts.toml allows it)")
	}
	left := !sameOrigin(req.URL, via[0].URL)
	for _, hop := range via[1:] {
		left = left || !sameOrigin(hop.URL, via[0].URL)
	}
	if left {
		for key := range h.header {
			req.Header.Del(key)
		}
		req.Header.Del("Authorization")
		req.Header.Del("Cookie")
		req.Header.Del("Referer")
	}
	return nil
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && originHost(a) == originHost(b)
}

func originHost(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return strings.ToLower(u.Hostname()) + ":" + port
}

// tlsConfig reads e's certificates.
func (e endpoint) tlsConfig() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: e.skipVerify}
	if len(e.ca) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("system certificates: %w: %w", err, ErrConfig)
		}
		for _, file := range e.ca {
			data, err := os.ReadFile(file)
			if err != nil {
				return nil, fmt.Errorf("ca: %w: %w", err, ErrConfig)
			}
			if !pool.AppendCertsFromPEM(data) {
				return nil, fmt.Errorf("ca: %s: no certificate in it: %w", file, ErrConfig)
			}
		}
		c.RootCAs = pool
	}
	for _, pair := range e.client {
		key := pair[1]
		if key == "" {
			key = pair[0]
		}
		cert, err := tls.LoadX509KeyPair(pair[0], key)
		if err != nil {
			return nil, fmt.Errorf("client: %w: %w", err, ErrConfig)
		}
		c.Certificates = append(c.Certificates, cert)
	}
	return c, nil
}

// base is the URL of h's API. Where HTTPS and plain HTTP are both possible, it
// finds out first, with one handshake; what that handshake says is not used for anything else.
func (h *host) base(ctx context.Context) (url.URL, error) {
	if !h.probe || h.probed.Load() {
		return *h.url, nil
	}
	h.probing.Lock()
	defer h.probing.Unlock()
	if h.probed.Load() {
		return *h.url, nil
	}
	conn, err := h.transport.DialContext(ctx, "tcp", h.dialAddress())
	if h.url.Port() == "" && isRefused(err) { // nobody at 443: it can only be plain HTTP, at 80
		h.url.Scheme = "http"
		h.probed.Store(true)
		return *h.url, nil
	}
	if err != nil {
		return url.URL{}, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, h.transport.TLSHandshakeTimeout)
	defer cancel()
	config := h.transport.TLSClientConfig.Clone()
	config.ServerName = h.url.Hostname()
	err = tls.Client(conn, config).HandshakeContext(ctx)
	_, notTLS := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case err == nil:
		h.url.Scheme = "https"
	case notTLS || errors.Is(err, io.EOF) || isReset(err):
		h.url.Scheme = "http"
	default:
		return url.URL{}, err
	}
	h.probed.Store(true)
	return *h.url, nil
}

func (h *host) dialAddress() string {
	if h.url.Port() == "" {
		return net.JoinHostPort(h.url.Hostname(), "443")
	}
	return h.url.Host
}

// isReset reports whether a peer hung up on us.
func isReset(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "read" && !op.Timeout()
}
