// Package line makes the lines that chatter says: each is a function of its number, so that
// whoever reads them knows if one is not what was said. It keeps no state.
package line

import "strconv"

const (
	mean   = 1300   // bytes, about
	every  = 1000   // this many lines have one that is long
	long   = 40_000 // bytes, more than two parts of a log
	toErr  = 10     // each of these goes to stderr
	spread = 2654435761
)

// Append adds line n, without its end, to dst.
func Append(dst []byte, n int) []byte {
	size := int(uint32(n)*spread>>8) % (2 * mean)
	if n%every == every-1 {
		size = long
	}
	dst = strconv.AppendInt(dst, int64(n), 10)
	dst = append(dst, ' ')
	for i := range size {
		dst = append(dst, 'a'+byte((n+i)%26))
	}
	return dst
}

// OnStderr tells whether line n is said on stderr, rather than on stdout.
func OnStderr(n int) bool { return n%toErr == 0 }
