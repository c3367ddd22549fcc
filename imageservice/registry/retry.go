package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Retry says how often and how patiently a request is made again. Zero fields
// take the defaults. A host that others follow gets two attempts.
type Retry struct {
	Attempts int           // in all, the first included; default 5
	Base     time.Duration // the first wait, doubled each time, half of it random; default 250 ms
	MaxWait  time.Duration // the longest wait, Retry-After included; default 1 minute
}

func (r Retry) withDefaults() Retry {
	if r.Attempts <= 0 {
		r.Attempts = 5
	}
	if r.Base <= 0 {
		r.Base = 250 * time.Millisecond
	}
	if r.MaxWait <= 0 {
		r.MaxWait = time.Minute
	}
	return r
}

// wait sleeps before attempt n+1 (n counts from 0), at least for atLeast.
func (r Retry) wait(ctx context.Context, n int, atLeast time.Duration) error {
	d := min(r.Base<<min(n, 16), r.MaxWait)
	d = d/2 + rand.N(d/2+1)
	timer := time.NewTimer(min(max(d, atLeast), r.MaxWait))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// A retrier makes a request again when it failed in a way that may pass. It
// stands below the auth client, so that token requests are covered, too. Reading an
// answer's body ends with errStalled when it stalls and with a bodyError when it breaks off.
type retrier struct {
	next    http.RoundTripper
	retry   Retry
	stall   Stall
	secrets *secrets // learns what is sent as Authorization
}

// RoundTrip implements http.RoundTripper.
func (t *retrier) RoundTrip(req *http.Request) (*http.Response, error) {
	for n := 0; ; n++ {
		resp, err := t.once(req)
		if n+1 >= t.retry.Attempts || req.Context().Err() != nil {
			return resp, err
		}
		var after time.Duration
		if err != nil {
			if !mayPass(err) {
				return nil, err
			}
		} else {
			if !retryable(resp.StatusCode) {
				return resp, nil
			}
			after = retryAfter(resp)
			if after > t.retry.MaxWait {
				return resp, nil // it has said that it will not answer before
			}
		}
		if req.Body != nil && req.Body != http.NoBody {
			if req.GetBody == nil {
				return resp, err
			}
			body, bodyErr := req.GetBody()
			if bodyErr != nil {
				return resp, err
			}
			req = req.Clone(req.Context())
			req.Body = body
		}
		if resp != nil {
			resp.Body.Close()
		}
		if err := t.retry.wait(req.Context(), n, after); err != nil {
			return nil, err
		}
	}
}

// once makes the request one time.
func (t *retrier) once(req *http.Request) (*http.Response, error) {
	t.secrets.addHeader(req.Header.Values("Authorization"))
	ctx, cancel := context.WithCancel(req.Context())
	resp, err := t.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = newStallReader(resp.Body, t.stall, cancel)
	return resp, nil
}

func retryable(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// mayPass reports whether a connection's failure may be gone a moment later: not
// when the name does not exist, the certificate is not to be trusted, or it has lasted for long.
func mayPass(err error) bool {
	if errors.Is(err, errNotStored) {
		return false
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return false
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return false
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return false
	}
	_, ok := errors.AsType[tls.RecordHeaderError](err)
	return !ok
}

// retryAfter is the time an answer asks to be left alone for (RFC 9110, 10.2.3).
func retryAfter(resp *http.Response) time.Duration {
	v := resp.Header.Get("Retry-After")
	if s, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}
