package imageservice

import (
	"fmt"
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

// pinnedNames makes full names of what an operator wrote. IDs stay as they are.
func pinnedNames(list []string) (map[string]bool, error) {
	out := map[string]bool{}
	for _, s := range list {
		if _, err := digest.Parse(s); err == nil {
			out[s] = true
			continue
		}
		named, err := parseName(s)
		if err != nil {
			return nil, fmt.Errorf("pinned image: %w", err)
		}
		out[named.String()] = true
	}
	return out, nil
}

// A view is all images at one moment. It is never changed.
type view struct {
	images []Image         // sorted by ID
	names  map[string]int  // tags and repository digests
	needed map[string]bool // layers and seals that must stay, as the guard names them
}

// newView makes the view of records. The layers of chains in unseal are needed until
// their seal has gone: nothing is taken from under it.
func newView(records map[digest.Digest]record, unseal [][]digest.Digest, pinned map[string]bool) *view {
	v := &view{names: map[string]int{}, needed: map[string]bool{}}
	for _, r := range records {
		img := r.image
		img.Pinned = pinned[img.ID.String()]
		for _, name := range append(append([]string(nil), img.Tags...), img.Digests...) {
			img.Pinned = img.Pinned || pinned[name]
		}
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

// find looks an image up: by ID, by name, by prefix of an ID.
func (v *view) find(ref string) (Image, bool) {
	hex, isID := strings.CutPrefix(ref, "sha256:")
	if !isID {
		if named, err := parseName(ref); err == nil {
			if i, ok := v.names[named.String()]; ok {
				return v.images[i], true
			}
		}
	}
	if len(hex) < 4 || len(hex) > 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return Image{}, false
	}
	prefix := digest.Digest("sha256:" + hex)
	i := sort.Search(len(v.images), func(i int) bool { return v.images[i].ID >= prefix })
	has := func(i int) bool {
		return i < len(v.images) && strings.HasPrefix(v.images[i].ID.String(), prefix.String())
	}
	if !has(i) || has(i+1) { // none, or not unique
		return Image{}, false
	}
	return v.images[i], true
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
