package registrytest

import (
	"io"
	"net/http"

	"github.com/opencontainers/go-digest"
)

// takeManifest stores a manifest whose blobs are here.
func (s *Server) takeManifest(w http.ResponseWriter, r *http.Request, repo, ref string) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		Fail(w, http.StatusBadRequest, "MANIFEST_INVALID", "broken off")
		return
	}
	d := digest.FromBytes(data)
	s.PutManifest(repo+":"+ref, r.Header.Get("Content-Type"), data)
	s.PutManifest(repo+":"+d.String(), r.Header.Get("Content-Type"), data)
	w.Header().Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
}

// takeBlob begins an upload, ends one, or mounts a blob, which all repositories share here.
func (s *Server) takeBlob(w http.ResponseWriter, r *http.Request, repo string) {
	query := r.URL.Query()
	if r.Method == http.MethodPost {
		s.mu.Lock()
		_, ok := s.blobs[digest.Digest(query.Get("mount"))]
		s.mu.Unlock()
		if ok {
			w.WriteHeader(http.StatusCreated)
			return
		}
		w.Header().Set("Location", "/v2/"+repo+"/blobs/uploads/one?state=x")
		w.WriteHeader(http.StatusAccepted)
		return
	}
	data, err := io.ReadAll(r.Body)
	if err != nil || digest.FromBytes(data).String() != query.Get("digest") || query.Get("state") != "x" {
		Fail(w, http.StatusBadRequest, "DIGEST_INVALID", "not what was announced")
		return
	}
	s.AddBlob(data)
	w.WriteHeader(http.StatusCreated)
}
