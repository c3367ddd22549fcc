package inflate

// An outcome is why decoding of codes stopped.
type outcome uint8

const (
	goOn     outcome = iota // input or room is short, or nothing is wrong
	endBlock                // the block's end has been read
	badCode                 // bits that are no code
	badDist                 // a match with what is before the member's output
)

// codes decodes symbols until the block ends or out is full.
func (z *Reader) codes() error {
	for z.room() {
		got := goOn
		if z.pos <= z.end-inSlack {
			got = z.fast()
		}
		if got == goOn && z.room() {
			var err error
			if got, err = z.slow(); err != nil {
				return err
			}
		}
		switch got {
		case endBlock:
			z.next = atBlock
			return nil
		case badCode:
			return z.corrupt("bits that are no code")
		case badDist:
			return z.corrupt("distance too far back")
		}
	}
	return nil
}

// slow decodes one entry, whatever there is of input. There must be room.
func (z *Reader) slow() (outcome, error) {
	index, root := uint64(0), uint64(1<<litRoot-1)
	var e uint32
	for {
		z.top()
		e = z.tab.lit[(index+z.hold&root)&(litSize-1)]
		take := uint64(e & takeMask)
		if take > z.nbits {
			if err := z.need(z.nbits + 1); err != nil {
				return goOn, err
			}
			continue
		}
		if e&isLink == 0 {
			break
		}
		z.take(take)
		index, root = uint64(e>>linkPos)&linkMask, 1<<(e>>widthPos&widthMask)-1
	}
	bits := z.take(uint64(e & takeMask))
	if e&isLiteral != 0 {
		z.out[z.wp] = byte(e >> litPos)
		z.wp++
		return goOn, nil
	}
	if e&isOdd != 0 {
		if e&isEnd != 0 {
			return endBlock, nil
		}
		return badCode, nil
	}
	length := int(e>>litPos&511) + int(uint32(bits>>(e>>lenCodePos&15))&(e>>lenMaskPos&31))
	return z.slowMatch(length)
}

// slowMatch decodes a distance and copies the match.
func (z *Reader) slowMatch(length int) (outcome, error) {
	index, root := uint64(0), uint64(1<<distRoot-1)
	var e uint64
	for {
		z.top()
		e = z.tab.dist[(index+z.hold&root)&(distSize-1)]
		take := e & takeMask
		if take > z.nbits {
			if err := z.need(z.nbits + 1); err != nil {
				return goOn, err
			}
			continue
		}
		if e&isLinkDist == 0 {
			break
		}
		z.take(take)
		index, root = e>>linkPos&linkMask, 1<<(e>>widthPos&widthMask)-1
	}
	bits := z.take(e & takeMask)
	if e&isOddDist != 0 {
		return badCode, nil
	}
	dist := int(e>>distPos) + int(bits>>(e>>distCodePos&15)&(e>>distMaskPos&(1<<13-1)))
	if dist > z.wp-z.start {
		return badDist, nil
	}
	for range length {
		z.out[z.wp] = z.out[z.wp-dist]
		z.wp++
	}
	return goOn, nil
}
