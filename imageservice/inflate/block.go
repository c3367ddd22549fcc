package inflate

// codeOrder is the order in which the lengths of the code of code lengths come (RFC 1951, 3.2.7).
var codeOrder = [numCode]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// block reads the header of a block (RFC 1951, 3.2.3), or passes on to the
// trailer when the last one has been read.
func (z *Reader) block() error {
	if z.final {
		z.final, z.next = false, atTrailer
		return nil
	}
	if err := z.need(3); err != nil {
		return err
	}
	z.final = z.take(1) == 1
	switch z.take(2) {
	case 0:
		return z.storedHeader()
	case 1:
		z.tab, z.next = fixedOf(), inCodes
		return nil
	case 2:
		return z.dynamicHeader()
	default:
		return z.corrupt("unknown type of block")
	}
}

func (z *Reader) storedHeader() error {
	z.align()
	n, err := z.readLE(2)
	if err != nil {
		return err
	}
	check, err := z.readLE(2)
	if err != nil {
		return err
	}
	if n != ^check&0xffff {
		return z.corrupt("wrong length of a stored block")
	}
	z.left, z.next = int(n), inStored
	return nil
}

// stored copies what there is of a stored block and fits.
func (z *Reader) stored() error {
	if z.left == 0 {
		z.next = atBlock
		return nil
	}
	if z.pos == z.end {
		if err := z.fillMore(); err != nil {
			return err
		}
	}
	n := copy(z.out[z.wp:], z.in[z.pos:min(z.end, z.pos+z.left)])
	z.pos += n
	z.wp += n
	z.left -= n
	return nil
}

// dynamicHeader reads the codes of a block (RFC 1951, 3.2.7).
func (z *Reader) dynamicHeader() error {
	if err := z.need(14); err != nil {
		return err
	}
	nlit, ndist, ncode := int(z.take(5))+257, int(z.take(5))+1, int(z.take(4))+4
	if nlit > numLit || ndist > numDist {
		return z.corrupt("too many symbols")
	}
	var codeLens [numCode]uint8
	for _, i := range codeOrder[:ncode] {
		if err := z.need(3); err != nil {
			return err
		}
		codeLens[i] = uint8(z.take(3))
	}
	t := z.own
	if !codeForm.build(t.code[:], codeLens[:], symbolsOf().code[:]) {
		return z.corrupt("bad code of code lengths")
	}
	lens := t.lens[:nlit+ndist]
	if err := z.codeLengths(lens); err != nil {
		return err
	}
	switch {
	case lens[256] == 0:
		return z.corrupt("no code for the end of the block")
	case !litForm.build(t.lit[:], lens[:nlit], symbolsOf().lit[:]):
		return z.corrupt("bad code of literals and lengths")
	case !distForm.build(t.dist[:], lens[nlit:], symbolsOf().dist[:]):
		return z.corrupt("bad code of distances")
	}
	z.tab, z.next = t, inCodes
	return nil
}

// codeLengths reads a length for each of lens.
func (z *Reader) codeLengths(lens []uint8) error {
	for i := 0; i < len(lens); {
		z.top()
		e := z.own.code[z.hold&(1<<codeRoot-1)]
		for uint64(e&takeMask) > z.nbits {
			if err := z.need(z.nbits + 1); err != nil {
				return err
			}
			e = z.own.code[z.hold&(1<<codeRoot-1)]
		}
		z.take(uint64(e & takeMask))
		sym := e >> litPos & 31
		var value uint8
		var extra uint64
		n := 3
		switch {
		case e&isOdd != 0:
			return z.corrupt("unknown code of a code length")
		case sym < 16:
			lens[i] = uint8(sym)
			i++
			continue
		case sym == 16:
			if i == 0 {
				return z.corrupt("no code length to repeat")
			}
			value, extra = lens[i-1], 2
		case sym == 17:
			extra = 3
		default:
			extra, n = 7, 11
		}
		if err := z.need(extra); err != nil {
			return err
		}
		n += int(z.take(extra))
		if n > len(lens)-i {
			return z.corrupt("too many code lengths")
		}
		for end := i + n; i < end; i++ {
			lens[i] = value
		}
	}
	return nil
}
