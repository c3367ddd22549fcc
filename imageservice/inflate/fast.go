package inflate

// fast decodes symbols while there is so much of input and of room that nothing
// needs to be checked within a step.
func (z *Reader) fast() outcome {
	in, pos, lastPos := z.in, z.pos, z.end-inSlack
	out, wp, lastWP, start := z.out, z.wp, len(z.out)-outSlack, z.start
	hold, n := z.hold, z.nbits
	lit, far := z.lit, z.dist
	got := goOn

	for pos <= lastPos && wp <= lastWP {
		hold |= load64(in, pos) << (n & 63)
		pos += int((63 - n) >> 3)
		n |= 56
		e := lit[hold&(1<<litRoot-1)]
		if e&isLiteral != 0 {
			store32(out, wp, e>>litPos)
			wp += int(e >> countPos & 3)
			hold >>= e & takeMask
			n -= uint64(e & takeMask)
			e = lit[hold&(1<<litRoot-1)]
			if e&isLiteral != 0 {
				store32(out, wp, e>>litPos)
				wp += int(e >> countPos & 3)
				hold >>= e & takeMask
				n -= uint64(e & takeMask)
				e = lit[hold&(1<<litRoot-1)]
				if e&isLiteral != 0 {
					store32(out, wp, e>>litPos)
					wp += int(e >> countPos & 3)
					hold >>= e & takeMask
					n -= uint64(e & takeMask)
					continue
				}
			}
		}
		// At least 34 bits are left, and a length takes 20.
		if e&isOdd != 0 {
			hold >>= e & takeMask
			n -= uint64(e & takeMask)
			if e&isLink != 0 {
				e = lit[(uint64(e>>linkPos&linkMask)+hold&(1<<(e>>widthPos&widthMask)-1))&(litSize-1)]
				if e&isLiteral != 0 {
					store32(out, wp, e>>litPos)
					wp++
					hold >>= e & takeMask
					n -= uint64(e & takeMask)
					continue
				}
				if e&isOdd != 0 {
					hold >>= e & takeMask
					n -= uint64(e & takeMask)
				}
			}
			if e&isOdd != 0 {
				got = badCode
				if e&isEnd != 0 {
					got = endBlock
				}
				break
			}
		}
		length := int(e>>litPos&511) + int(uint32(hold>>(e>>lenCodePos&63))&(e>>lenMaskPos&31))
		hold >>= e & takeMask
		n -= uint64(e & takeMask)

		hold |= load64(in, pos) << (n & 63)
		pos += int((63 - n) >> 3)
		n |= 56
		d := far[hold&(1<<distRoot-1)]
		if d&isOddDist != 0 {
			if d&isLinkDist != 0 {
				hold >>= d & takeMask
				n -= d & takeMask
				d = far[(d>>linkPos&linkMask+hold&(1<<(d>>widthPos&widthMask)-1))&(distSize-1)]
			}
			if d&isOddDist != 0 {
				got = badCode
				break
			}
		}
		dist := int(d>>distPos) + int(hold>>(d>>distCodePos&63)&(d>>distMaskPos&(1<<13-1)))
		hold >>= d & takeMask
		n -= d & takeMask
		if dist > wp-start {
			got = badDist
			break
		}
		from, end := wp-dist, wp+length
		switch {
		case dist >= 16:
			for {
				copy16(out, wp, from)
				wp += 16
				from += 16
				if wp >= end {
					break
				}
			}
		case dist >= 8:
			for {
				store64(out, wp, load64(out, from))
				wp += 8
				from += 8
				if wp >= end {
					break
				}
			}
		case dist == 1:
			v := uint64(out[from]) * 0x0101010101010101
			for {
				store64(out, wp, v)
				wp += 8
				if wp >= end {
					break
				}
			}
		default:
			// Each store begins where the next period does.
			for {
				store64(out, wp, load64(out, from))
				wp += dist
				from += dist
				if wp >= end {
					break
				}
			}
		}
		wp = end
	}
	z.pos, z.wp, z.nbits = pos, wp, n
	z.hold = hold & (1<<n - 1)
	return got
}
