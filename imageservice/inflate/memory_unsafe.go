//go:build (amd64 || arm64) && !race && !purego

package inflate

import "unsafe"

// These are the accesses of the fast loop to its two buffers, without the checks of
// memory.go, which cost it 5 to 10 % of its speed (-bench Layer, without and with -tags purego).
// What makes them safe, whatever the input:
//
//   - A step begins with pos <= z.end-inSlack and reads 8 bytes at pos and, at most 7
//     further, 8 more. z.end is at most len(z.in).
//   - A step begins with wp <= len(z.out)-outSlack and writes at most four literals and
//     a match of maxMatch, in units that reach at most 15 bytes beyond its end.
//   - A match is read from wp-dist, and dist is at most wp-z.start.
//
// What is built with -race or -tags purego has memory.go instead, where a wrong index is a panic. The
// processors named above are little-endian and load and store at any address.

func at(b []byte, i int) unsafe.Pointer { return unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), i) }

func load64(b []byte, i int) uint64 { return *(*uint64)(at(b, i)) }

func store64(b []byte, i int, v uint64) { *(*uint64)(at(b, i)) = v }

func store8(b []byte, i int, v byte) { *(*byte)(at(b, i)) = v }

func copy16(b []byte, to, from int) { *(*[16]byte)(at(b, to)) = *(*[16]byte)(at(b, from)) }
