package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// What a caller may want to tell apart.
var (
	// ErrUnavailable is everything that keeps a registry from answering: its name, its
	// connection, its certificate, its slowness, 429 and 5xx, after the retries.
	ErrUnavailable = errors.New("registry unavailable")
	// ErrUnauthorized is 401 and 403, a token server or a credential helper that gives
	// nothing, and what registries.conf blocks.
	ErrUnauthorized = errors.New("not authorized")
	// ErrNotFound is 404: no such repository, tag, manifest or blob.
	ErrNotFound = errors.New("not found")
	// ErrCorrupt is content that is not what its digest, size or type says.
	ErrCorrupt = errors.New("corrupt content")
	// ErrUnsupported is an image that is well-formed and not for us.
	ErrUnsupported = errors.New("unsupported image")
	// ErrTooLarge is content beyond a cap.
	ErrTooLarge = errors.New("too large")
	// ErrConfig is a hosts.toml, a registries.conf, a file of credentials, or a file that
	// one of them names, that cannot be used.
	ErrConfig = errors.New("bad registry configuration")
)

// A hostError is what went wrong with one host. Its text is made when it happens
// and holds no secret. The cause is not kept: it may hold one, and a dial's
// timeout would pass for the caller's deadline (net's timeout is a
// context.DeadlineExceeded to errors.Is).
type hostError struct {
	text string
	kind error // a sentinel, or nil
}

func (e *hostError) Error() string { return e.text }
func (e *hostError) Unwrap() error { return e.kind }

// fail makes the error of host h about thing.
func (r *Repository) fail(h *host, kind error, thing, fact string) error {
	return &hostError{text: fmt.Sprintf("%s: %s/%s: %s: %s", h.name, r.domain, r.path, thing, clean(r.secrets.redact(fact))), kind: kind}
}

// joinHosts makes one error of those of several hosts. The last one's kind counts.
func joinHosts(failed []error) error {
	last := failed[len(failed)-1]
	if len(failed) == 1 {
		return last
	}
	var text strings.Builder
	text.WriteString(last.Error())
	text.WriteString(" (before that: ")
	for i, err := range failed[:len(failed)-1] {
		if i > 0 {
			text.WriteString("; ")
		}
		text.WriteString(err.Error())
	}
	text.WriteString(")")
	e := &hostError{text: text.String()}
	if h, ok := errors.AsType[*hostError](last); ok {
		e.kind = h.kind
	}
	return e
}

// ended is why the caller does not wait any more, or nil. A dial ends at the context's
// deadline by a clock of its own, which may be a moment ahead of the context's.
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d, ok := ctx.Deadline(); ok && !time.Now().Before(d) {
		return context.DeadlineExceeded
	}
	return nil
}

// netError makes an error of one that an HTTP exchange with h ended with.
func (r *Repository) netError(ctx context.Context, h *host, thing string, err error) error {
	if errors.Is(err, errStalled) {
		return r.fail(h, ErrUnavailable, thing, r.stall.String())
	}
	if err := ended(ctx); err != nil {
		return fmt.Errorf("%s: %w", thing, err)
	}
	kind := ErrUnauthorized // what the auth client says by itself
	fact := err.Error()
	if u, ok := errors.AsType[*url.Error](err); ok {
		kind, fact = ErrUnavailable, u.Err.Error() // without the URL: a redirect's may be signed
	} else if b, ok := errors.AsType[*bodyError](err); ok {
		kind, fact = ErrUnavailable, "the answer broke off: "+b.cause.Error()
	} else if _, ok := errors.AsType[net.Error](err); ok || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		kind = ErrUnavailable
	}
	fact = address.ReplaceAllString(quoted.ReplaceAllString(fact, `"…"`), "$1…") // nor one of a realm or a Location
	if e, ok := errors.AsType[*errcode.ErrorResponse](err); ok {                 // of the token server
		fact = fmt.Sprintf("token server: %d %s%s", e.StatusCode, http.StatusText(e.StatusCode), messages(e.Errors, r.secrets.redact))
		if e.StatusCode >= 500 || e.StatusCode == http.StatusTooManyRequests || e.StatusCode == http.StatusRequestTimeout {
			kind = ErrUnavailable
		}
	}
	if e, ok := errors.AsType[*authError](err); ok {
		kind, fact = e.kind, "the node's credentials: "+e.text
	}
	if errors.Is(err, auth.ErrBasicCredentialNotFound) {
		fact = "the registry asks for a user and password, and there are none for this host"
	}
	if kind == ErrUnauthorized {
		fact = "not authorized: " + fact
	}
	return r.fail(h, kind, thing, fact)
}

// status makes an error of an answer that is not the one hoped for. It reads the
// body's messages, if the body is the registry's own.
func (r *Repository) status(h *host, resp *http.Response, thing string, body bool) error {
	fact := resp.Status
	own := sameOrigin(resp.Request.URL, h.url)
	if !own {
		fact = resp.Request.URL.Host + " (redirected to): " + fact
	}
	if body && own {
		fact += bodyMessages(resp.Body, r.secrets.redact)
	}
	var kind error
	switch c := resp.StatusCode; {
	case c == http.StatusNotFound:
		kind = ErrNotFound
	case (c == http.StatusUnauthorized || c == http.StatusForbidden) && own:
		kind = ErrUnauthorized
		fact = "not authorized: " + fact
		if r.cred != (Credential{}) && !h.trusted {
			fact += " (the credentials are not for this host)"
		}
	case c == http.StatusUnauthorized, c == http.StatusForbidden, c >= 500, c == http.StatusTooManyRequests, c == http.StatusRequestTimeout:
		kind = ErrUnavailable
	}
	return r.fail(h, kind, thing, fact)
}

// bodyMessages reads the errors of a registry's answer (distribution specification, "Error Codes").
// redact takes secrets out of what a server wrote.
func bodyMessages(body io.Reader, redact func(string) string) string {
	var doc struct {
		Errors errcode.Errors `json:"errors"`
	}
	data, err := io.ReadAll(io.LimitReader(body, 8<<10))
	if err != nil || json.Unmarshal(data, &doc) != nil {
		return ""
	}
	return messages(doc.Errors, redact)
}

// messages makes one line of errors. Each is redacted whole, before it is cut.
func messages(errs errcode.Errors, redact func(string) string) string {
	var b strings.Builder
	for i, e := range errs {
		if i == 3 {
			break
		}
		fmt.Fprintf(&b, ": %.40s %.200s", redact(e.Code), redact(e.Message))
	}
	return strings.TrimRight(b.String(), " ")
}

// What may be secret in what others write: of a URL its query, which may be a signature, and its user
// and password; where no person is to follow it, all of it, in quotes or not.
var (
	quoted   = regexp.MustCompile(`"[^"]*//[^"]*"`)
	address  = regexp.MustCompile(`(\w+:)//[^\s"']*`)
	query    = regexp.MustCompile(`\?[^\s"']+`)
	userinfo = regexp.MustCompile(`//[^\s/"']*@`)
)

// clean makes one short printable line of what a server may have written.
func clean(s string) string {
	s = userinfo.ReplaceAllString(query.ReplaceAllString(s, "?…"), "//…@")
	s = strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return ' '
	}, s)
	if len(s) > 600 {
		s = strings.ToValidUTF8(s[:600], "") + "…"
	}
	return s
}
