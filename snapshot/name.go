package snapshot

import (
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Limits on names in an archive: the kernel's own, and a depth that no honest tree has.
const (
	maxComponent = 255
	maxPath      = 4095
	maxDepth     = 512
)

// cleanName turns a name from an archive into a path relative to the layer's root, "."
// being the root itself. "/etc/x", "./etc/x" and "etc//x/" all mean "etc/x". A name
// that climbs above the root by its text is ErrMalicious, even one that would come
// back down; one that stays inside ("a/../b") is taken by its text.
func cleanName(name string) (string, error) {
	if name == "" || len(name) > maxPath || strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("name %.80q is empty, too long or has a zero byte: %w", name, ErrCorrupt)
	}
	var out []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
		case part == "..":
			if len(out) == 0 {
				return "", fmt.Errorf("name %q leaves the layer: %w", name, ErrMalicious)
			}
			out = out[:len(out)-1]
		case len(part) > maxComponent:
			return "", fmt.Errorf("name %.80q has a component of %d bytes: %w", name, len(part), ErrCorrupt)
		default:
			out = append(out, part)
		}
	}
	if len(out) > maxDepth {
		return "", fmt.Errorf("name %.80q is %d components deep: %w", name, len(out), ErrCorrupt)
	}
	if len(out) == 0 {
		return ".", nil
	}
	return strings.Join(out, "/"), nil
}

// splitName splits a clean name into its directory and its last component.
func splitName(name string) (dir, base string) {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return ".", name
}

// joinName is the path of name in the directory dir, both clean.
func joinName(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// CheckID refuses what cannot be a container's ID: it is the name of a directory.
func CheckID(id string) error {
	if len(id) == 0 || len(id) > 64 || id[0] == '.' || id[0] == '-' || id[0] == '_' {
		return fmt.Errorf("snapshot %.80q: %w", id, ErrInvalid)
	}
	for _, c := range []byte(id) {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-', c == '_', c == '.':
		default:
			return fmt.Errorf("snapshot %.80q: %w", id, ErrInvalid)
		}
	}
	return nil
}

// layerName is the name of a layer's directory, "sha256-<hex>".
func layerName(diffID digest.Digest) (string, error) {
	if err := diffID.Validate(); err != nil {
		return "", fmt.Errorf("layer %.100q: %w: %w", diffID, ErrInvalid, err)
	}
	return diffID.Algorithm().String() + "-" + diffID.Encoded(), nil
}

// layerID is the inverse of layerName.
func layerID(name string) (digest.Digest, bool) {
	algorithm, hex, _ := strings.Cut(name, "-")
	d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
	return d, d.Validate() == nil
}

// sealName is the name of the seal of a chain of layers.
func sealName(diffIDs []digest.Digest) (string, error) {
	var chain strings.Builder
	for _, d := range diffIDs {
		if err := d.Validate(); err != nil {
			return "", fmt.Errorf("layer %.100q: %w: %w", d, ErrInvalid, err)
		}
		chain.WriteString(d.String() + "\n")
	}
	return digest.FromString(chain.String()).Encoded(), nil
}
