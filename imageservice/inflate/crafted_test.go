package inflate

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"testing"
)

// A bitWriter writes DEFLATE by hand.
type bitWriter struct {
	b []byte
	n int // in bits
}

// add appends the lowest n bits of v, lowest first.
func (w *bitWriter) add(v, n int) *bitWriter {
	for i := range n {
		if w.n%8 == 0 {
			w.b = append(w.b, 0)
		}
		w.b[w.n/8] |= byte(v>>i&1) << (w.n % 8)
		w.n++
	}
	return w
}

// code appends a code of n bits, highest first.
func (w *bitWriter) code(v, n int) *bitWriter {
	for i := n - 1; i >= 0; i-- {
		w.add(v>>i, 1)
	}
	return w
}

// dynamic appends the header of a block with these lengths. Each is sent as 4 bits.
func (w *bitWriter) dynamic(final int, lit, dist []int) *bitWriter {
	w.add(final, 1).add(2, 2).add(len(lit)-257, 5).add(len(dist)-1, 5).add(numCode-4, 4)
	for _, sym := range codeOrder {
		if sym < 16 {
			w.add(4, 3)
		} else {
			w.add(0, 3)
		}
	}
	for _, n := range append(slices.Clone(lit), dist...) {
		w.code(n, 4)
	}
	return w
}

// lengths is n lengths that are 0 but for those given as symbol, length, ...
func lengths(n int, pairs ...int) []int {
	l := make([]int, n)
	for i := 0; i < len(pairs); i += 2 {
		l[pairs[i]] = pairs[i+1]
	}
	return l
}

// whole puts DEFLATE data into a member that is right if compress/flate takes the data.
func whole(deflated []byte) []byte {
	src := bytes.NewReader(deflated)
	content, err := io.ReadAll(flate.NewReader(src))
	b := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}
	if err != nil {
		return append(b, deflated...)
	}
	b = append(b, deflated[:len(deflated)-src.Len()]...)
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(content))
	return binary.LittleEndian.AppendUint32(b, uint32(len(content)))
}

// TestBlocks has blocks that no compressor writes.
func TestBlocks(t *testing.T) {
	// Codes for 'a', the end, length 3: 0, 10, 11.
	abc := lengths(258, 'a', 1, 256, 2, 257, 2)
	deep := lengths(286, 256, 15, 285, 15)
	for i := range 14 {
		deep['a'+i] = i + 1
	}
	deepDist := lengths(30, 28, 15, 29, 15)
	for i := range 14 {
		deepDist[i] = i + 1
	}
	far := func(n int) []byte {
		w := &bitWriter{}
		w.add(0, 3).add(0, 5).add(n, 16).add(^n&0xffff, 16)
		w.b = append(w.b, bytes.Repeat([]byte("0123456"), n/7+1)[:n]...)
		w.n += 8 * n
		w.add(1, 1).add(1, 2).code(1, 7).code(29, 5).add(1<<13-1, 13).code(0, 7) // length 3 at distance 32768
		return w.b
	}
	tests := []struct {
		name string
		in   []byte
		want string // in the error; "" if there is none
	}{
		{"one distance code", (&bitWriter{}).dynamic(1, abc, []int{1}).code(0, 1).code(3, 2).code(0, 1).code(2, 2).b, ""},
		{"one distance code, the other used", (&bitWriter{}).dynamic(1, abc, []int{1}).code(0, 1).code(3, 2).code(1, 1).code(2, 2).b, "no code"},
		{"one distance code of two bits", (&bitWriter{}).dynamic(1, abc, []int{2}).code(2, 2).b, "bad code of distances"},
		{"no distance code", (&bitWriter{}).dynamic(1, abc, []int{0}).code(0, 1).code(2, 2).b, ""},
		{"no distance code, one used", (&bitWriter{}).dynamic(1, abc, []int{0}).code(0, 1).code(3, 2).code(0, 1).b, "no code"},
		{"only an end", (&bitWriter{}).dynamic(1, lengths(257, 256, 1), []int{0}).code(0, 1).b, ""},
		{"only an end, the other used", (&bitWriter{}).dynamic(1, lengths(257, 256, 1), []int{0}).code(1, 1).b, "no code"},
		{"no end", (&bitWriter{}).dynamic(1, lengths(257, 'a', 1, 'b', 1), []int{0}).code(1, 1).b, "end of the block"},
		{"too few literals", (&bitWriter{}).dynamic(1, lengths(257, 'a', 2, 256, 2), []int{0}).b, "bad code of literals"},
		{"too many literals", (&bitWriter{}).dynamic(1, lengths(257, 'a', 1, 'b', 1, 256, 1), []int{0}).b, "bad code of literals"},
		{"too many distances", (&bitWriter{}).dynamic(1, abc, []int{1, 1, 1}).b, "bad code of distances"},
		{"287 literals and lengths", (&bitWriter{}).dynamic(1, lengths(287, 256, 1), []int{0}).code(0, 1).b, "too many symbols"},
		{"31 distances", (&bitWriter{}).dynamic(1, abc, make([]int, 31)).code(2, 2).b, "too many symbols"},
		{"codes of all lengths", (&bitWriter{}).dynamic(1, deep, deepDist).code(0, 1).code(1<<14-2, 14).code(1<<15-1, 15).code(0, 1).code(1<<15-2, 15).b, ""},
		{"fixed, length 286", (&bitWriter{}).add(3, 3).code(0xc6, 8).b, "no code"},
		{"fixed, distance 30", (&bitWriter{}).add(3, 3).code(0x30, 8).code(1, 7).code(30, 5).b, "no code"},
		{"type 3", (&bitWriter{}).add(7, 3).b, "unknown type"},
		{"stored, wrong length", []byte{1, 1, 0, 0xff, 0xff, 'x'}, "stored block"},
		{"stored, nothing", []byte{1, 0, 0, 0xff, 0xff}, ""},
		{"nothing before a match", (&bitWriter{}).add(3, 3).code(1, 7).code(0, 5).b, "too far back"},
		{"as far as there is", far(window), ""},
		{"farther than there is", far(window - 1), "too far back"},
		{"a length to repeat, but none before", (&bitWriter{}).add(5, 3).add(0, 14).add(1, 3).add(0, 6).add(1, 3).code(1, 1).b, "repeat"},
		{"too many lengths", (&bitWriter{}).add(5, 3).add(0, 14).add(0, 6).add(1, 3).add(1, 3).code(1, 1).add(127, 7).code(1, 1).add(127, 7).b, "too many code lengths"},
		{"one code length, the other used", (&bitWriter{}).add(5, 3).add(0, 14).add(0, 6).add(1, 3).add(0, 3).code(1, 1).b, "unknown code"},
		{"too many codes of code lengths", (&bitWriter{}).add(5, 3).add(0, 14).add(0xfff, 12).b, "code of code lengths"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// Alone, so that the slow way is gone, and with much behind it.
			alone := whole(tt.in)
			if tt.want != "" {
				alone = append(alone, 0, 0)
			}
			for _, in := range [][]byte{alone, append(whole(tt.in), whole([]byte{1, 0, 0, 0xff, 0xff})...)} {
				_, err := ours(in)
				if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), tt.want)) {
					t.Errorf("%v, want %q", err, tt.want)
				}
				sameAsStandard(t, tt.name, in)
			}
		})
	}
}

// TestManyTinyBlocks has blocks with nothing in them, by the ten thousand.
func TestManyTinyBlocks(t *testing.T) {
	var w bitWriter
	for range 10000 {
		w.dynamic(0, lengths(257, 256, 1), []int{0}).code(0, 1)
		w.add(2, 3).code(0, 7) // fixed
	}
	w.add(3, 3).code(0x30+'x', 8).code(0, 7)
	got, err := ours(whole(w.b))
	if err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
}

// FuzzAgainstStandard takes its input for a stream, and for DEFLATE in one.
func FuzzAgainstStandard(f *testing.F) {
	for name, c := range compressors() {
		if strings.HasPrefix(name, "standard") || strings.HasPrefix(name, "klauspost") {
			for _, content := range []string{"text", "periods", "skewed"} {
				in := compress(f, c, samples()[content][:700])
				f.Add(in)
				f.Add(in[10 : len(in)-8])
			}
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		sameAsStandard(t, "as it is", in)
		sameAsStandard(t, "wrapped", whole(in))
		sameAsStandard(t, "with much behind it", append(whole(in), make([]byte, 64)...))
	})
}
