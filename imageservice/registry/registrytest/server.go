// Package registrytest is an OCI distribution registry in memory, for tests: the
// part that pulls need, with a place to put faults in. It keeps nothing on disk, and
// everything about it may be changed while it serves.
package registrytest

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// A Server is a registry on a loopback port. Close it.
type Server struct {
	*httptest.Server

	mu        sync.Mutex
	blobs     map[string]map[digest.Digest][]byte // by repository; "" is of all
	manifests map[string]manifest                 // by "repository:tag" and digest
	requests  []Request
	fault     func(http.ResponseWriter, *http.Request) bool
	auth      *auth
}

// A Request is what somebody asked, in the order of arrival.
type Request struct {
	Method, Path, Query, Host string
	Header                    http.Header
}

type manifest struct {
	data      []byte
	mediaType string
}

type auth struct{ user, password, token, realm string }

// New starts a registry that speaks plain HTTP.
func New() *Server {
	s := &Server{blobs: map[string]map[digest.Digest][]byte{}, manifests: map[string]manifest{}}
	s.Server = httptest.NewServer(s)
	return s
}

// NewTLS starts a registry that speaks HTTPS with a certificate of its own.
func NewTLS() *Server {
	s := &Server{blobs: map[string]map[digest.Digest][]byte{}, manifests: map[string]manifest{}}
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ErrorLog = quiet()
	s.StartTLS()
	return s
}

// Host is the server's address as an image's name has it.
func (s *Server) Host() string {
	u, err := url.Parse(s.URL)
	if err != nil {
		return ""
	}
	return u.Host
}

// SetFault puts f before every request; when it returns true, it has answered. nil: no faults.
func (s *Server) SetFault(f func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// RequireBearer makes the server ask for a token that its own /token gives to user with password.
func (s *Server) RequireBearer(user, password, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.auth = &auth{user, password, token, s.URL + "/token"}
}

// RequireBasic makes the server ask for user and password.
func (s *Server) RequireBasic(user, password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.auth = &auth{user: user, password: password}
}

// Requests returns what was asked so far whose method and path contain the words, and forgets nothing.
func (s *Server) Requests(words ...string) []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Request
next:
	for _, r := range s.requests {
		for _, w := range words {
			if !strings.Contains(r.Method+" "+r.Path, w) {
				continue next
			}
		}
		out = append(out, r)
	}
	return out
}

// Forget empties the list of requests.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = nil
}

// AddBlob stores data under its digest, in every repository, and returns that.
func (s *Server) AddBlob(data []byte) digest.Digest {
	d := digest.FromBytes(data)
	s.PutBlob(d, data)
	return d
}

// addBlob stores data under its digest in one repository.
func (s *Server) addBlob(repo string, data []byte) digest.Digest {
	d := digest.FromBytes(data)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.putBlob(repo, d, data)
	return d
}

// putBlob stores data under d. The caller holds mu.
func (s *Server) putBlob(repo string, d digest.Digest, data []byte) {
	if s.blobs[repo] == nil {
		s.blobs[repo] = map[digest.Digest][]byte{}
	}
	s.blobs[repo][d] = data
}

// PutBlob stores data under d in every repository, whatever its digest is, in place of what they have.
func (s *Server) PutBlob(d digest.Digest, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, blobs := range s.blobs {
		delete(blobs, d)
	}
	s.putBlob("", d, data)
}

// blob is a blob of a repository. The caller holds mu.
func (s *Server) blob(repo string, d digest.Digest) ([]byte, bool) {
	data, ok := s.blobs[repo][d]
	if !ok {
		data, ok = s.blobs[""][d]
	}
	return data, ok
}

// AddManifest stores a manifest in repo under tag, if there is one, and its digest.
func (s *Server) AddManifest(repo, tag, mediaType string, data []byte) digest.Digest {
	d := digest.FromBytes(data)
	s.PutManifest(repo+":"+tag, mediaType, data)
	s.PutManifest(repo+":"+d.String(), mediaType, data)
	return d
}

// PutManifest stores a manifest under "repository:reference", whatever its digest is.
func (s *Server) PutManifest(name, mediaType string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.manifests[name] = manifest{data, mediaType}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, Request{r.Method, r.URL.Path, r.URL.RawQuery, r.Host, r.Header.Clone()})
	fault, a := s.fault, s.auth
	s.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	if r.URL.Path == "/token" {
		a.serveToken(w, r)
		return
	}
	if a != nil && !a.allows(w, r) {
		return
	}
	s.serve(w, r)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if !ok {
		Fail(w, http.StatusNotFound, "NAME_UNKNOWN", "no such path")
		return
	}
	if i := strings.LastIndex(path, "/manifests/"); i > 0 {
		if r.Method == http.MethodPut {
			s.takeManifest(w, r, path[:i], path[i+len("/manifests/"):])
			return
		}
		s.mu.Lock()
		m, ok := s.manifests[path[:i]+":"+path[i+len("/manifests/"):]]
		s.mu.Unlock()
		if !ok {
			Fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
			return
		}
		if m.mediaType != "" {
			w.Header().Set("Content-Type", m.mediaType)
		}
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(m.data).String())
		w.Header().Set("Content-Length", fmt.Sprint(len(m.data)))
		if r.Method == http.MethodGet {
			_, _ = w.Write(m.data)
		}
		return
	}
	if i := strings.LastIndex(path, "/blobs/uploads/"); i > 0 {
		s.takeBlob(w, r, path[:i])
		return
	}
	if i := strings.LastIndex(path, "/blobs/"); i > 0 {
		s.mu.Lock()
		data, ok := s.blob(path[:i], digest.Digest(path[i+len("/blobs/"):]))
		s.mu.Unlock()
		if !ok {
			Fail(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown")
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
		return
	}
	Fail(w, http.StatusNotFound, "NAME_UNKNOWN", "no such path")
}

func (a *auth) allows(w http.ResponseWriter, r *http.Request) bool {
	if a.token == "" {
		if user, password, _ := r.BasicAuth(); user == a.user && password == a.password {
			return true
		}
		w.Header().Set("Www-Authenticate", `Basic realm="test"`)
		Fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "who are you?")
		return false
	}
	if r.Header.Get("Authorization") == "Bearer "+a.token {
		return true
	}
	w.Header().Set("Www-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="test",scope="repository:x:pull"`, a.realm))
	Fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	return false
}

// serveToken gives the token for the user's password, or for the password as a refresh token. A refusal
// repeats what it was shown, as careless servers do.
func (a *auth) serveToken(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	if a != nil && (user == a.user && password == a.password || r.PostFormValue("refresh_token") == a.password) {
		fmt.Fprintf(w, `{"token":%q,"access_token":%q}`, a.token, a.token)
		return
	}
	basic := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	Fail(w, http.StatusUnauthorized, "DENIED", "wrong password "+password+" "+r.PostFormValue("refresh_token")+" in "+basic)
}

// Fail answers as a registry does when it refuses.
func Fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
}

// ManifestSize is the size in bytes of the manifest d in repo, 0 when there is none.
func (s *Server) ManifestSize(repo string, d digest.Digest) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(len(s.manifests[repo+":"+d.String()].data))
}
