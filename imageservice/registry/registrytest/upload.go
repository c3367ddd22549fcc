package registrytest

import (
	"encoding/json"
	"io"
	"net/http"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// takeManifest stores a manifest whose blobs are in the repository.
func (s *Server) takeManifest(w http.ResponseWriter, r *http.Request, repo, ref string) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		Fail(w, http.StatusBadRequest, "MANIFEST_INVALID", "broken off")
		return
	}
	var doc struct {
		Config *ocispec.Descriptor
		Layers []ocispec.Descriptor
	}
	if err := json.Unmarshal(data, &doc); err != nil || doc.Config == nil {
		Fail(w, http.StatusBadRequest, "MANIFEST_INVALID", "no manifest of an image")
		return
	}
	for _, l := range append(doc.Layers, *doc.Config) {
		s.mu.Lock()
		blob, ok := s.blob(repo, l.Digest)
		s.mu.Unlock()
		if !ok || int64(len(blob)) != l.Size {
			Fail(w, http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", l.Digest.String())
			return
		}
	}
	d := digest.FromBytes(data)
	s.PutManifest(repo+":"+ref, r.Header.Get("Content-Type"), data)
	s.PutManifest(repo+":"+d.String(), r.Header.Get("Content-Type"), data)
	w.Header().Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
}

// takeBlob begins an upload, ends one, or mounts a blob of another repository.
func (s *Server) takeBlob(w http.ResponseWriter, r *http.Request, repo string) {
	query := r.URL.Query()
	if r.Method == http.MethodPost {
		d := digest.Digest(query.Get("mount"))
		s.mu.Lock()
		blob, ok := s.blob(query.Get("from"), d)
		if ok {
			s.putBlob(repo, d, blob)
		}
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
	s.addBlob(repo, data)
	w.WriteHeader(http.StatusCreated)
}
