// Package registry serves an OCI image layout as a registry does, as a process of its
// own, so that what it costs is in nobody's account: files go out by sendfile,
// ranges too. It counts what it serves, by blob, and notes when.
//
// Nothing is on disk; a registry can be started again at any time, and ends with the
// process that started it.
package registry

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Count is what was served of one blob or manifest since the last Reset.
type Count struct {
	Requests int       // GETs
	Bytes    int64     // of bodies
	First    time.Time // when the first request came
	Last     time.Time // when the last byte was handed to the kernel
}

// A Layout is an http.Handler that serves the image layout in a folder, under any
// repository's name. Tags are the index's reference names.
type Layout struct {
	dir  string
	tags map[string]ocispec.Descriptor

	mu     sync.Mutex
	counts map[digest.Digest]*Count
}

// Open reads the index of the layout in dir.
func Open(dir string) (*Layout, error) {
	data, err := os.ReadFile(filepath.Join(dir, ocispec.ImageIndexFile))
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	l := &Layout{dir: dir, tags: map[string]ocispec.Descriptor{}, counts: map[digest.Digest]*Count{}}
	for _, m := range index.Manifests {
		l.tags[m.Annotations[ocispec.AnnotationRefName]] = m
		l.tags[m.Digest.String()] = m
	}
	return l, nil
}

// Counts is what was served, by digest.
func (l *Layout) Counts() map[digest.Digest]Count {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[digest.Digest]Count{}
	for d, c := range l.counts {
		out[d] = *c
	}
	return out
}

// Reset forgets what was served.
func (l *Layout) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.counts)
}

// ServeHTTP implements http.Handler.
func (l *Layout) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	switch {
	case !ok || r.Method != http.MethodGet && r.Method != http.MethodHead:
		http.NotFound(w, r)
	case path == "":
		w.WriteHeader(http.StatusOK)
	default:
		l.serve(w, r, path)
	}
}

func (l *Layout) serve(w http.ResponseWriter, r *http.Request, path string) {
	var d digest.Digest
	if _, ref, ok := cutLast(path, "/manifests/"); ok {
		m, ok := l.tags[ref]
		if !ok {
			refuse(w, "MANIFEST_UNKNOWN")
			return
		}
		d = m.Digest
		w.Header().Set("Content-Type", m.MediaType)
	} else if _, ref, ok := cutLast(path, "/blobs/"); ok {
		d = digest.Digest(ref)
		w.Header().Set("Content-Type", "application/octet-stream")
	}
	if d.Validate() != nil {
		refuse(w, "NAME_UNKNOWN")
		return
	}
	f, err := os.Open(filepath.Join(l.dir, "blobs", d.Algorithm().String(), d.Encoded()))
	if err != nil {
		refuse(w, "BLOB_UNKNOWN")
		return
	}
	defer f.Close()
	w.Header().Set("Docker-Content-Digest", d.String())
	c := &counted{ResponseWriter: w}
	if r.Method == http.MethodGet {
		l.note(d, func(c *Count) { c.Requests++ })
		defer func() { l.note(d, func(to *Count) { to.Bytes += c.n }) }()
	}
	http.ServeContent(c, r, "", time.Time{}, f)
}

// note changes the count of d by f, now.
func (l *Layout) note(d digest.Digest, f func(*Count)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.counts[d]
	if c == nil {
		c = &Count{First: time.Now()}
		l.counts[d] = c
	}
	c.Last = time.Now()
	f(c)
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+len(sep):], true
}

func refuse(w http.ResponseWriter, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"not here"}]}`, code)
}

// A counted counts the bytes of a body and leaves sending it from a file to the kernel.
type counted struct {
	http.ResponseWriter
	n int64
}

// Write implements io.Writer.
func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += int64(n)
	return n, err
}

// ReadFrom implements io.ReaderFrom, by which net/http uses sendfile.
func (c *counted) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(c.ResponseWriter, r)
	c.n += n
	return n, err
}
