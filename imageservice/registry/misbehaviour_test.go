package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/imageservice/registry/registrytest"
)

// What registries and what stands before them are known to do wrong, and is not in the other tests of this package.

func TestRetryAfterDate(t *testing.T) {
	for name, tt := range map[string]struct {
		at   time.Time
		want error
		asks int32
	}{
		"past":                   {time.Now().Add(-time.Hour), nil, 2},
		"longer than we wait":    {time.Now().Add(time.Hour), ErrUnavailable, 1},
		"never, by its own word": {time.Now().AddDate(50, 0, 0), ErrUnavailable, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			s.AddManifest("app", "v1", "", []byte("doc"))
			var n atomic.Int32
			s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
				if n.Add(1) > 1 {
					return false
				}
				w.Header().Set("Retry-After", tt.at.UTC().Format(http.TimeFormat))
				w.WriteHeader(http.StatusTooManyRequests)
				return true
			})
			_, err := openAt(t, quick, s.Host(), Credential{}).Resolve(t.Context(), "v1")
			if !errors.Is(err, tt.want) || n.Load() != tt.asks {
				t.Errorf("asked %d times: %v", n.Load(), err)
			}
		})
	}
}

// TestReset: a connection that is reset within a body is made again, at the place where it broke.
func TestReset(t *testing.T) {
	data := random(100_000)
	s := newServer(t)
	d := s.AddBlob(data)
	var n atomic.Int32
	s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if n.Add(1) > 1 {
			return false
		}
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return true
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(data), data[:5000])
		_ = conn.(*net.TCPConn).SetLinger(0)
		return true
	})
	got, err := readBlob(t.Context(), openAt(t, quick, s.Host(), Credential{}), d, len(data))
	if err != nil || !bytes.Equal(got, data) || n.Load() < 2 {
		t.Errorf("%d bytes, %v, asked %d times", len(got), err, n.Load())
	}
}

// TestTokenServerRedirects: what is meant for one host does not follow to another, in whatever way it is shown.
func TestTokenServerRedirects(t *testing.T) {
	const secret = "hunter22&co"
	for name, cred := range map[string]Credential{"password": {Username: "me", Password: secret}, "identity token": {IdentityToken: secret}} {
		for _, status := range []int{http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
			t.Run(fmt.Sprint(name, " ", status), func(t *testing.T) {
				var seen bytes.Buffer // the handler ends before the test goes on: it asks in turn
				other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					user, password, _ := r.BasicAuth()
					fmt.Fprintln(&seen, r.Header, user, password, r.URL, string(body))
					fmt.Fprint(w, `{"token":"ANOTHER","access_token":"ANOTHER"}`)
				}))
				defer other.Close()
				s := newServer(t)
				s.AddManifest("app", "v1", "", []byte("doc"))
				s.RequireBearer("me", secret, "TOKEN-1234")
				s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
					if r.URL.Path != "/token" {
						return false
					}
					http.Redirect(w, r, other.URL+"/token", status)
					return true
				})
				_, err := openAt(t, quick, s.Host(), cred).Resolve(t.Context(), "v1")
				if err == nil || strings.Contains(err.Error(), secret) {
					t.Errorf("Resolve: %v", err)
				}
				if text := seen.String(); strings.Contains(text, "hunter22") || strings.Contains(text, "Authorization") {
					t.Errorf("the other host saw %s", text)
				}
			})
		}
	}
}

// TestAskedForEver: a host that refuses whatever it is shown is not asked again and again.
func TestAskedForEver(t *testing.T) {
	for _, challenge := range []string{`Basic realm="x"`, `Bearer realm="%s/token",service="x",scope="repository:%d:pull"`, `Negotiate`, ``} {
		t.Run(challenge, func(t *testing.T) {
			s := newServer(t)
			var n atomic.Int32
			s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/token" {
					fmt.Fprint(w, `{"token":"TOKEN-1234"}`)
					return true
				}
				text := challenge
				if strings.HasPrefix(text, "Bearer") {
					text = fmt.Sprintf(text, s.URL, n.Load())
				}
				n.Add(1)
				w.Header().Set("Www-Authenticate", text)
				w.WriteHeader(http.StatusUnauthorized)
				return true
			})
			r := openAt(t, quick, s.Host(), Credential{Username: "me", Password: "hunter22"})
			_, err := r.Resolve(t.Context(), "v1")
			if !errors.Is(err, ErrUnauthorized) || n.Load() > 2 || len(s.Requests("/token")) > 1 {
				t.Errorf("asked %d times, and for %d tokens: %v", n.Load(), len(s.Requests("/token")), err)
			}
		})
	}
}

// TestExpiredToken: a token that ends within a pull, and within a blob, is got anew; one that the
// caller gave cannot be.
func TestExpiredToken(t *testing.T) {
	data := random(100_000)
	for name, tt := range map[string]struct {
		cred Credential
		want error
	}{
		"password": {Credential{Username: "me", Password: "password"}, nil}, "identity token": {Credential{IdentityToken: "password"}, nil},
		"registry token": {Credential{RegistryToken: "TOKEN-1"}, ErrUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			d := s.AddBlob(data)
			s.AddManifest("app", "v1", "", []byte("doc"))
			s.RequireBearer("me", "password", "TOKEN-1")
			r := openAt(t, quick, s.Host(), tt.cred)
			if _, err := r.Resolve(t.Context(), "v1"); err != nil {
				t.Fatal(err)
			}
			cut := cutAfter(data, 50_000, 1, true)
			s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/blobs/") || len(s.Requests("/blobs/")) > 1 {
					return false
				}
				s.RequireBearer("me", "password", "TOKEN-2")
				return cut(w, r)
			})
			got, err := readBlob(t.Context(), r, d, len(data))
			if !errors.Is(err, tt.want) || err == nil && !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v; want %v", len(got), err, tt.want)
			}
			if n := len(s.Requests("/token")); tt.want == nil && n != 2 {
				t.Errorf("%d tokens", n)
			}
		})
	}
}

// TestRedirectToPlain: what began with a verified certificate does not go on without.
func TestRedirectToPlain(t *testing.T) {
	data := random(1000)
	secure, plain := registrytest.NewTLS(), newServer(t)
	t.Cleanup(secure.Close)
	d := plain.AddBlob(data)
	secure.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, plain.URL+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	})
	o := quick
	o.CertsDir = certsDir(t, "r.example", fmt.Sprintf("server = %q\nca = %q", secure.URL, caFile(t, secure)))
	_, err := readBlob(t.Context(), openAt(t, o, "r.example", Credential{}), d, len(data))
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "from https to http") || len(plain.Requests()) != 0 {
		t.Errorf("%d requests, %v", len(plain.Requests()), err)
	}
	o.CertsDir = certsDir(t, "r.example", fmt.Sprintf("server = %q\nskip_verify = true", secure.URL))
	if got, err := readBlob(t.Context(), openAt(t, o, "r.example", Credential{}), d, len(data)); err != nil || !bytes.Equal(got, data) {
		t.Errorf("where nothing is verified: %v", err)
	}
}

func TestRedirectForEver(t *testing.T) {
	s := newServer(t)
	s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, fmt.Sprintf("%s?n=%d", r.URL.Path, len(s.Requests())), http.StatusTemporaryRedirect)
		return true
	})
	_, err := openAt(t, quick, s.Host(), Credential{}).Resolve(t.Context(), "v1")
	if !errors.Is(err, ErrUnavailable) || len(s.Requests()) > 10 {
		t.Errorf("%d requests, %v", len(s.Requests()), err)
	}
}

// TestUserInURLs: a user and a password in a URL that a server gives are followed, as HTTP has it, and are in no error.
func TestUserInURLs(t *testing.T) {
	data := random(1000)
	s, storage := newServer(t), newServer(t)
	d := storage.AddBlob(data)
	storage.RequireBasic("me", "hunter22")
	var location, challenge atomic.Value
	with := func(rest string) string { return "http://me:hunter22@" + rest }
	s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if c, _ := challenge.Load().(string); c != "" {
			w.Header().Set("Www-Authenticate", c)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		w.Header().Set("Location", location.Load().(string))
		w.WriteHeader(http.StatusTemporaryRedirect)
		return true
	})
	read := func() ([]byte, error) {
		return readBlob(t.Context(), openAt(t, quick, s.Host(), Credential{}), d, len(data))
	}
	location.Store(with(storage.Host() + "/v2/app/blobs/" + d.String()))
	if got, err := read(); err != nil || !bytes.Equal(got, data) {
		t.Errorf("followed: %v", err)
	}
	for name, set := range map[string]func(){
		"to where it is refused":     func() { location.Store("http://me:hunter22x@" + storage.Host() + "/v2/app/blobs/" + d.String()) },
		"to where nobody is":         func() { location.Store(with("127.0.0.1:1/x?sig=hunter22")) },
		"to what is no URL":          func() { location.Store(with("%zz/hunter22")) },
		"to another scheme":          func() { location.Store("ftp://me:hunter22@x.example/") },
		"for a token, no scheme":     func() { challenge.Store(`Bearer realm="//me:hunter22@x.example/token"`) },
		"for a token, other scheme":  func() { challenge.Store(`Bearer realm="ftp://me:hunter22@x.example/token"`) },
		"for a token, nobody there":  func() { challenge.Store(`Bearer realm="` + with("127.0.0.1:1/token") + `"`) },
		"for a token, no answer":     func() { challenge.Store(`Bearer realm="` + with(storage.Host()+"/v2/") + `"`) },
		"to what has a space":        func() { location.Store("http://me:hun ter22 hunter22@x/") },
		"for a token, not a URL":     func() { challenge.Store(`Bearer realm="` + with("%zz/token") + `"`) },
		"for a token, a link-local":  func() { challenge.Store(`Bearer realm="` + with("169.254.169.254/token") + `"`) },
		"for a token, that is none":  func() { challenge.Store(`Bearer realm="` + with(s.Host()+"/html") + `"`) },
		"for a token, at a bad port": func() { challenge.Store(`Bearer realm="` + with("127.0.0.1:port/") + `"`) },
	} {
		challenge.Store("")
		set()
		_, err := read()
		if err == nil || strings.Contains(err.Error(), "hunter22") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestEndlessDocuments: neither a manifest nor an error is read for ever, and none is told at length.
func TestEndlessDocuments(t *testing.T) {
	s := newServer(t)
	d := digest.FromString("x")
	for name, tt := range map[string]struct {
		status       int
		begin, chunk string
		want         error
	}{
		"a manifest":             {http.StatusOK, "{", strings.Repeat(" ", 1<<16), ErrTooLarge},
		"an error":               {http.StatusForbidden, `{"errors":[{"code":"DENIED","message":"`, strings.Repeat("x", 1<<16), ErrUnauthorized},
		"an error of many":       {http.StatusNotFound, `{"errors":[`, strings.Repeat(`{"code":"A","message":"b"},`, 1<<10), ErrNotFound},
		"an error in white":      {http.StatusBadGateway, "", strings.Repeat("\n", 1<<16), ErrUnavailable},
		"an error in deep lists": {http.StatusForbidden, "", strings.Repeat("[", 1<<16), ErrUnauthorized},
	} {
		for _, path := range []string{"/manifests/", "/token"} {
			if path == "/token" && tt.status != http.StatusForbidden {
				continue
			}
			s.RequireBearer("me", "password", "TOKEN-1234")
			s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, path) || path != "/token" && r.Header.Get("Authorization") == "" {
					return false
				}
				w.WriteHeader(tt.status)
				_, err := io.WriteString(w, tt.begin)
				for err == nil {
					_, err = io.WriteString(w, tt.chunk)
				}
				return true
			})
			_, _, err := openAt(t, quick, s.Host(), Credential{Username: "me", Password: "password"}).Manifest(t.Context(), d)
			if !errors.Is(err, tt.want) || len(err.Error()) > 1500 {
				t.Errorf("%s for %s: %.2000v", name, path, err)
			}
		}
	}
}

// TestErrorsArePrintable: what a server writes is one line of letters, or nothing.
func TestErrorsArePrintable(t *testing.T) {
	s := newServer(t)
	for name, body := range map[string]string{
		"HTML":               "<html>\x1b[2J\x00<title>hunter\r\n22</title>",
		"JSON":               `{"errors":[{"code":"DE\u001b[2JNIED\n","message":"no\r\nE0101 forged line\u0000\u202e\u0085\u2028"}]}`,
		"long":               `{"errors":[` + strings.Repeat(`{"message":"`+strings.Repeat("é", 1000)+`"},`, 3) + `{}]}`,
		"with a URL":         `{"errors":[{"message":"see https://me:hunter22@x.example/page?sig=hunter22"}]}`,
		"not UTF-8":          "{\"errors\":[{\"message\":\"\xff\xfe\"}]}",
		"JSON of other type": `{"errors":"x"}`,
	} {
		s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, body)
			return true
		})
		_, _, err := openAt(t, quick, s.Host(), Credential{}).Manifest(t.Context(), digest.FromString("x"))
		if !errors.Is(err, ErrUnauthorized) || strings.ContainsAny(err.Error(), "\x1b\x00\r\n\u202e\u0085\u2028<") || len(err.Error()) > 900 || strings.Contains(err.Error(), "hunter") {
			t.Errorf("%s: %q", name, err)
		}
	}
}

// TestContentEncoding: no coding is asked for. One that comes all the same makes other bytes, and is as wrong
// as they are; the word alone, of a storage that calls a compressed layer so, changes nothing.
func TestContentEncoding(t *testing.T) {
	doc, data := []byte(strings.Repeat("doc", 1000)), random(50_000)
	mirror, upstream := newServer(t), newServer(t)
	md, bd := upstream.AddManifest("app", "v1", "", doc), upstream.AddBlob(data)
	mirror.AddManifest("app", "v1", "", doc)
	mirror.AddBlob(data)
	o := quick
	o.CertsDir = certsDir(t, "r.example", fmt.Sprintf("server = %q\n[host.%q]", upstream.URL, mirror.URL))
	check := func(t *testing.T) {
		r := openAt(t, o, "r.example", Credential{})
		if got, _, err := r.Manifest(t.Context(), md); err != nil || !bytes.Equal(got, doc) {
			t.Errorf("manifest: %d bytes, %v", len(got), err)
		}
		if got, err := readBlob(t.Context(), r, bd, len(data)); err != nil || !bytes.Equal(got, data) {
			t.Errorf("blob: %d bytes, %v", len(got), err)
		}
	}
	t.Run("bytes", func(t *testing.T) {
		mirror.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Encoding", "gzip")
			body := registrytest.Gzip(doc)
			if strings.Contains(r.URL.Path, "/blobs/") {
				body = registrytest.Gzip(data)
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			_, _ = w.Write(body)
			return true
		})
		check(t)
		if q := mirror.Requests("GET"); len(q) < 2 || q[0].Header.Get("Accept-Encoding") != "identity" || q[1].Header.Get("Accept-Encoding") != "identity" {
			t.Errorf("asked for %+v", q)
		}
	})
	t.Run("word", func(t *testing.T) {
		upstream.Forget()
		mirror.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Encoding", "gzip")
			return false
		})
		check(t)
		if n := len(upstream.Requests()); n != 0 {
			t.Errorf("the next host was asked %d times", n)
		}
	})
}

// TestNoContentType: a registry need not say what a manifest is.
func TestNoContentType(t *testing.T) {
	s := newServer(t)
	doc := []byte(`{"schemaVersion":2}`)
	d := s.AddManifest("app", "v1", "", doc)
	s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header()["Content-Type"] = nil // else net/http guesses one
		return false
	})
	r := openAt(t, quick, s.Host(), Credential{})
	if got, err := r.Resolve(t.Context(), "v1"); err != nil || got.Digest != d || got.MediaType != "" {
		t.Errorf("Resolve = %+v, %v", got, err)
	}
	if got, mediaType, err := r.Manifest(t.Context(), d); err != nil || !bytes.Equal(got, doc) || mediaType != "" {
		t.Errorf("Manifest = %q, %q, %v", got, mediaType, err)
	}
}
