package nftables

import (
	"encoding/binary"
	"strings"
)

// commentLimit is how many bytes of a comment the kernel keeps, beside its type, its length and an end.
const commentLimit = 253

func align(n int) int { return (n + 3) &^ 3 }

// attr is one attribute, with what stands behind it to the next.
func attr(kind uint16, data ...[]byte) []byte {
	b := make([]byte, 4, 64)
	for _, d := range data {
		b = append(b, d...)
	}
	binary.NativeEndian.PutUint16(b, uint16(len(b)))
	binary.NativeEndian.PutUint16(b[2:], kind)
	return append(b, make([]byte, align(len(b))-len(b))...)
}

func nested(kind uint16, data ...[]byte) []byte { return attr(kind|nestedFlag, data...) }

func text(s string) []byte { return append([]byte(s), 0) }

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func userdata(comment string) []byte {
	b := text(comment[:min(len(comment), commentLimit)])
	return append([]byte{udataComment, byte(len(b))}, b...)
}

// each calls f with the attributes in b.
func each(b []byte, f func(kind uint16, data []byte)) {
	for len(b) >= 4 {
		size := int(binary.NativeEndian.Uint16(b))
		if size < 4 || size > len(b) {
			return
		}
		f(binary.NativeEndian.Uint16(b[2:])&^attrFlags, b[4:size])
		b = b[min(align(size), len(b)):]
	}
}

func untext(b []byte) string { return strings.TrimRight(string(b), "\x00") }
