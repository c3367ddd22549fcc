package inflate

import (
	"math/bits"
	"sync"
)

// A code is decoded with a table that the next bits of input are the index of: the
// root table for codes of up to rootBits, and from there on with sub-tables that
// entries of the root table link to. An entry is a number with all that decoding needs:
//
//	bits 0-5   how many bits to take, code and extra bits together
//
// and, in the table of
//
//	literals and lengths         distances
//	bits  8-16                   bits 32-46   literal; length or distance, to which extra bits are added
//	bits 17-21                   bits 16-28   mask of the extra bits
//	bits 22-25                   bits  8-11   where the extra bits are: how long the code is
//	bit  31                                   it is a literal
//	bit  30                      bit  63      it is none of these, but
//	bit  29                      bit  62      a link to a sub-table, which begins at
//	bits  8-19                   bits  8-19   this index and takes an index of
//	bits 20-23                   bits 20-23   this many bits
//	bit  28                                   the end of the block
//
// and otherwise no code. Codes in sub-tables are counted from where the sub-table begins.
const (
	takeMask  = 63
	isLiteral = 1 << 31

	litPos     = 8
	lenMaskPos = 17
	lenCodePos = 22
	isOdd      = 1 << 30
	isLink     = 1 << 29
	isEnd      = 1 << 28

	distPos     = 32
	distMaskPos = 16
	distCodePos = 8
	isOddDist   = 1 << 63
	isLinkDist  = 1 << 62

	linkPos   = 8
	linkMask  = 1<<12 - 1
	widthPos  = 20
	widthMask = 15
)

const (
	maxCode  = 15 // bits (RFC 1951, 3.2.7)
	litRoot  = 11
	distRoot = 8
	codeRoot = 7

	numLit  = 286
	numDist = 30
	numCode = 19

	// No complete code needs more entries than 2342 (288 symbols, root 11) and 402
	// (32 symbols, root 8). Powers of two are cheaper to stay below.
	litSize  = 1 << 12
	distSize = 1 << 9
)

type (
	litTable  [litSize]uint32
	distTable [distSize]uint64
	codeTable [1 << codeRoot]uint32
)

// tables are those of a dynamic block, and what is needed to make them.
type tables struct {
	lit  litTable
	dist distTable
	code codeTable
	lens [numLit + numDist]uint8
}

// symbols are entries for every symbol, without their codes.
type symbols struct {
	lit  [288]uint32
	dist [32]uint64
	code [numCode]uint32
}

// symbolsOf makes RFC 1951, 3.2.5 into entries.
var symbolsOf = sync.OnceValue(func() *symbols {
	s := new(symbols)
	for i := range 256 {
		s.lit[i] = isLiteral | uint32(i)<<litPos
	}
	s.lit[256] = isOdd | isEnd
	base := uint32(3)
	for i := range 28 {
		extra := uint32(max(i/4-1, 0))
		s.lit[257+i] = extra | base<<litPos | (1<<extra-1)<<lenMaskPos
		base += 1 << extra
	}
	s.lit[285] = maxMatch << litPos
	s.lit[286], s.lit[287] = isOdd, isOdd
	far := uint64(1)
	for i := range numDist {
		extra := uint64(max(i/2-1, 0))
		s.dist[i] = extra | far<<distPos | (1<<extra-1)<<distMaskPos
		far += 1 << extra
	}
	s.dist[30], s.dist[31] = isOddDist, isOddDist
	for i := range s.code {
		s.code[i] = isLiteral | uint32(i)<<litPos
	}
	return s
})

// fixedOf makes the tables of RFC 1951, 3.2.6.
var fixedOf = sync.OnceValue(func() *tables {
	t := new(tables)
	var lens [288]uint8
	for i := range lens {
		switch {
		case i < 144:
			lens[i] = 8
		case i < 256:
			lens[i] = 9
		case i < 280:
			lens[i] = 7
		default:
			lens[i] = 8
		}
	}
	litForm.build(t.lit[:], lens[:], symbolsOf().lit[:])
	for i := range 32 {
		lens[i] = 5
	}
	distForm.build(t.dist[:], lens[:32], symbolsOf().dist[:])
	return t
})

// A form is how a table is laid out.
type form[E uint32 | uint64] struct {
	root   int
	odd    E // no code
	link   E
	length E // what each bit of a code adds to an entry that is no literal
}

var (
	litForm  = form[uint32]{litRoot, isOdd, isOdd | isLink, 1 + 1<<lenCodePos}
	distForm = form[uint64]{distRoot, isOddDist, isOddDist | isLinkDist, 1 + 1<<distCodePos}
	codeForm = form[uint32]{codeRoot, isOdd, isOdd | isLink, 1}
)

// build makes the table of the canonical code in which symbol i has lens[i] bits
// (RFC 1951, 3.2.2). It refuses a code with too many codes of a length, and one with too
// few, unless that is none at all or a single one of one bit.
func (f form[E]) build(tab []E, lens []uint8, syms []E) bool {
	var count, next [maxCode + 2]int
	for _, n := range lens {
		count[n&maxCode]++
	}
	used := len(lens) - count[0]
	count[0] = 0
	free, longest := 1, 0
	for n := 1; n <= maxCode; n++ {
		if free = 2*free - count[n]; free < 0 {
			return false
		}
		next[n+1] = next[n] + count[n]
		if count[n] > 0 {
			longest = n
		}
	}
	if free > 0 && used > 0 && (used != 1 || longest != 1) {
		return false
	}
	var sorted [288]uint16
	for i, n := range lens {
		if n != 0 {
			sorted[next[n]] = uint16(i)
			next[n]++
		}
	}
	f.buildRoot(tab, count[:], sorted[:], syms)
	if longest > f.root {
		f.buildSubs(tab, count[:], sorted[:used], syms, longest)
	}
	return true
}

// buildRoot enters the codes that are short enough. Each bit more doubles the table.
func (f form[E]) buildRoot(tab []E, count []int, sorted []uint16, syms []E) {
	tab[0] = f.odd | 1
	code, at := 0, 0
	for n := 1; n <= f.root; n++ {
		copy(tab[1<<(n-1):1<<n], tab[:1<<(n-1)])
		code <<= 1
		for _, sym := range sorted[at : at+count[n]] {
			tab[reverse(code, n)] = f.entry(syms[sym], n)
			code++
		}
		at += count[n]
	}
}

// buildSubs enters the longer codes, longest first: the first to fall into a
// sub-table says how wide that has to be. The code is complete, so it ends with ones.
func (f form[E]) buildSubs(tab []E, count []int, sorted []uint16, syms []E, n int) {
	code := 1<<n - 1
	root, top := -1, 1<<f.root
	width, sub := 0, tab[:0]
	left := count[n]
	for i := len(sorted) - 1; ; i-- {
		for left == 0 {
			n--
			code >>= 1
			left = count[n]
		}
		if n <= f.root {
			return
		}
		rev := reverse(code, n)
		if r := rev & (1<<f.root - 1); r != root {
			root, width = r, n-f.root
			sub = tab[top : top+1<<width]
			tab[root] = f.link | E(f.root) | E(top)<<linkPos | E(width)<<widthPos
			top += 1 << width
		}
		e := f.entry(syms[sorted[i]], n-f.root)
		for j := rev >> f.root; j < len(sub); j += 1 << (n - f.root) {
			sub[j] = e
		}
		code--
		left--
	}
}

// entry is a symbol's entry with a code of n bits.
func (f form[E]) entry(sym E, n int) E {
	if sym&isLiteral != 0 {
		return sym + E(n)
	}
	return sym + E(n)*f.length
}

// reverse turns round a code of n bits: it is sent with its highest bit first.
func reverse(code, n int) int { return int(bits.Reverse16(uint16(code)) >> (16 - n)) }
