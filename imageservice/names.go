package imageservice

import (
	"fmt"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

// parseName makes a full name of s: registry and "library/" added, tag "latest" when it has
// none. With both tag and digest, the digest counts, and the tag is dropped.
func parseName(s string) (reference.Named, error) {
	named, err := reference.ParseDockerRef(s)
	if err != nil {
		return nil, fmt.Errorf("%.300q: %w: %w", s, ErrInvalidReference, err)
	}
	if d, ok := named.(reference.Digested); ok && d.Digest().Algorithm() != digest.SHA256 {
		return nil, fmt.Errorf("%.300q: %w: not a SHA-256 digest", s, ErrInvalidReference)
	}
	return named, nil
}

// tagOrDigest is the part of a full name that a registry is asked for.
func tagOrDigest(named reference.Named) string {
	switch n := named.(type) {
	case reference.Digested:
		return n.Digest().String()
	case reference.Tagged:
		return n.Tag()
	}
	return "latest" // not reached: parseName adds one
}

// pins say which images kubelet must not collect. The zero value pins none.
type pins struct {
	names    map[string]bool // full names and IDs
	patterns []string        // of full names, in path.Match's form
}

// parsePins makes full names of what an operator wrote. IDs and patterns stay as they are:
// a pattern has one of *, ? and [, which no name has.
func parsePins(list []string) (pins, error) {
	p := pins{names: map[string]bool{}}
	for _, s := range list {
		if strings.ContainsAny(s, "*?[") {
			if _, err := path.Match(s, ""); err != nil {
				return pins{}, fmt.Errorf("pinned image: pattern %.300q: %w: %w", s, ErrInvalidReference, err)
			}
			p.patterns = append(p.patterns, s)
			continue
		}
		if _, err := digest.Parse(s); err == nil {
			p.names[s] = true
			continue
		}
		named, err := parseName(s)
		if err != nil {
			return pins{}, fmt.Errorf("pinned image: %w", err)
		}
		p.names[named.String()] = true
	}
	return p, nil
}

// hold tells whether the image is pinned by its ID or by any of its names.
func (p pins) hold(img Image) bool {
	if p.names[img.ID.String()] {
		return true
	}
	return slices.ContainsFunc(slices.Concat(img.Tags, img.Digests), func(name string) bool {
		return p.names[name] || slices.ContainsFunc(p.patterns, func(pattern string) bool {
			ok, _ := path.Match(pattern, name) // parsePins has seen to the error
			return ok
		})
	})
}

// A view is all images at one moment. It is never changed.
type view struct {
	records map[digest.Digest]record
	images  []Image         // sorted by ID
	names   map[string]int  // tags and repository digests
	needed  map[string]bool // layers and seals that must stay, as the guard names them
}

// newView makes the view of records. The layers of chains in unseal are needed until
// their seal has gone: nothing is taken from under it.
func newView(records map[digest.Digest]record, unseal [][]digest.Digest, pinned pins) *view {
	v := &view{records: records, names: map[string]int{}, needed: map[string]bool{}}
	for _, r := range records {
		img := r.image
		img.Pinned, img.Pulled = pinned.hold(img), r.pulled
		v.images = append(v.images, img)
		for _, key := range guardKeys(img.DiffIDs) {
			v.needed[key] = true
		}
	}
	for _, d := range slices.Concat(unseal...) {
		v.needed[d.String()] = true
	}
	sort.Slice(v.images, func(i, j int) bool { return v.images[i].ID < v.images[j].ID })
	for i, img := range v.images {
		for _, name := range img.Tags {
			v.names[name] = i
		}
		for _, name := range img.Digests {
			v.names[name] = i
		}
	}
	return v
}

// find looks an image up: by ID, by name, by prefix of an ID. ErrNotFound, ErrAmbiguous.
func (v *view) find(ref string) (Image, error) {
	hex, isID := strings.CutPrefix(ref, "sha256:")
	if !isID {
		if named, err := parseName(ref); err == nil {
			if i, ok := v.names[named.String()]; ok {
				return v.images[i], nil
			}
		}
	}
	if len(hex) < 4 || len(hex) > 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return Image{}, ErrNotFound
	}
	prefix := digest.Digest("sha256:" + hex)
	i := sort.Search(len(v.images), func(i int) bool { return v.images[i].ID >= prefix })
	has := func(i int) bool {
		return i < len(v.images) && strings.HasPrefix(v.images[i].ID.String(), prefix.String())
	}
	switch {
	case !has(i):
		return Image{}, ErrNotFound
	case has(i + 1):
		return Image{}, ErrAmbiguous
	}
	return v.images[i], nil
}

// sealKey names the seal of a chain of layers for the guard.
func sealKey(chain []digest.Digest) string {
	return "seal " + identity.ChainID(chain).String()
}

// guardKeys names all that an image of these layers needs: the layers and their seal.
func guardKeys(chain []digest.Digest) []string {
	keys := []string{sealKey(chain)}
	for _, d := range chain {
		keys = append(keys, d.String())
	}
	return keys
}

// FullName is the name that an image goes by in lists when name is pulled, or
// ErrInvalidReference.
func FullName(name string) (string, error) {
	named, err := parseName(name)
	if err != nil {
		return "", err
	}
	return named.String(), nil
}
