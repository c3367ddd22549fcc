package erofs

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// prefixes are the beginnings of names that the format has numbers for. A name that
// begins with none of them cannot be written.
var prefixes = []prefix{
	{1, "user."}, {2, "system.posix_acl_access"}, {3, "system.posix_acl_default"}, {4, "trusted."}, {6, "security."},
}

type prefix struct {
	index uint8
	text  string
}

// encodeXattrs is what follows an inode with these extended attributes, nothing without.
func encodeXattrs(xattrs map[string]string) ([]byte, error) {
	if len(xattrs) == 0 {
		return nil, nil
	}
	out := make([]byte, xattrHeader)
	for _, name := range slices.Sorted(maps.Keys(xattrs)) {
		value, known := xattrs[name], false
		for _, p := range prefixes {
			rest, ok := strings.CutPrefix(name, p.text)
			if !ok || len(rest) > math.MaxUint8 || len(value) > math.MaxUint16 || rest != "" && p.text[len(p.text)-1] != '.' {
				continue
			}
			known = true
			out = append(out, uint8(len(rest)), p.index)
			out = binary.LittleEndian.AppendUint16(out, uint16(len(value)))
			out = append(append(out, rest...), value...)
			out = append(out, make([]byte, roundUp(uint64(len(out)), xattrEntry)-uint64(len(out)))...)
		}
		if !known {
			return nil, fmt.Errorf("extended attribute %.80q of %d bytes: %w", name, len(value), ErrTooLarge)
		}
	}
	if (len(out)-xattrHeader)/xattrEntry+1 > math.MaxUint16 {
		return nil, fmt.Errorf("%d bytes of extended attributes: %w", len(out), ErrTooLarge)
	}
	return out, nil
}

// decodeXattrs is the inverse of encodeXattrs.
func decodeXattrs(b []byte) (map[string]string, error) {
	out := make(map[string]string)
	for b = b[xattrHeader:]; len(b) >= xattrEntry; {
		rest, size := int(b[0]), int(binary.LittleEndian.Uint16(b[2:]))
		all := int(roundUp(uint64(xattrEntry+rest+size), xattrEntry))
		p := slices.IndexFunc(prefixes, func(p prefix) bool { return p.index == b[1] })
		if p < 0 || all > len(b) {
			return nil, fmt.Errorf("extended attributes: %w", errDamaged)
		}
		out[prefixes[p].text+string(b[xattrEntry:xattrEntry+rest])] = string(b[xattrEntry+rest : xattrEntry+rest+size])
		b = b[all:]
	}
	return out, nil
}
