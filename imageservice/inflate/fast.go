package inflate

// fast decodes symbols while there is so much of input and of room that nothing
// needs to be checked within a step: literals, up to four, and a match after up to three.
// It is one long function because a call in the loop has its variables in memory.
//
// hold has 64 bits of the stream after each refill, of which those in bytes before pos
// count: 63-used of them, at least 56. A step up to the second refill takes
// at most 3 codes of litRoot bits and 20 for a length, from there on 28 for a distance. Only the
// lowest 6 bits of used count, so that whole entries can be added to it. e is the
// next entry, looked up as early as it can be.
func (z *Reader) fast() outcome {
	in, pos, lastPos := z.in, z.pos, z.end-inSlack
	out, wp, lastWP := z.out, z.wp, len(z.out)-outSlack
	tab := z.tab
	hold := z.hold
	used := uint32(63 - z.nbits)
	got := goOn

	hold |= load64(in, pos) << (^used & 63)
	pos += int(used >> 3 & 7)
	used &= 7
	e := tab.lit[hold&(1<<litRoot-1)]
	for pos <= lastPos && wp <= lastWP {
		hold |= load64(in, pos) << (^used & 63)
		pos += int(used >> 3 & 7)
		used &= 7
		if int32(e) < 0 {
			store8(out, wp, byte(e>>litPos))
			wp++
			hold >>= e & takeMask
			used += e
			e = tab.lit[hold&(1<<litRoot-1)]
			if int32(e) < 0 {
				store8(out, wp, byte(e>>litPos))
				wp++
				hold >>= e & takeMask
				used += e
				e = tab.lit[hold&(1<<litRoot-1)]
				if int32(e) < 0 {
					store8(out, wp, byte(e>>litPos))
					wp++
					hold >>= e & takeMask
					used += e
					e = tab.lit[hold&(1<<litRoot-1)]
					if int32(e) < 0 {
						store8(out, wp, byte(e>>litPos))
						wp++
						hold >>= e & takeMask
						used += e
						e = tab.lit[hold&(1<<litRoot-1)]
						continue
					}
				}
			}
		}
		// At least 34 bits are left, and a length takes 20.
		if e&isOdd != 0 {
			hold >>= e & takeMask
			used += e
			if e&isLink != 0 {
				e = tab.lit[(uint64(e>>linkPos&linkMask)+hold&(1<<(e>>widthPos&widthMask)-1))&(litSize-1)]
				if int32(e) < 0 {
					store8(out, wp, byte(e>>litPos))
					wp++
					hold >>= e & takeMask
					used += e
					e = tab.lit[hold&(1<<litRoot-1)]
					continue
				}
				if e&isOdd != 0 {
					hold >>= e & takeMask
					used += e
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
		was := hold
		hold >>= e & takeMask
		used += e
		end := wp + int(e>>litPos&511) + int(uint32(was>>(e>>lenCodePos&63))&(e>>lenMaskPos&31))

		hold |= load64(in, pos) << (^used & 63)
		pos += int(used >> 3 & 7)
		used &= 7
		d := tab.dist[hold&(1<<distRoot-1)]
		if d&isOddDist != 0 {
			if d&isLinkDist != 0 {
				hold >>= d & takeMask
				used += uint32(d)
				d = tab.dist[(d>>linkPos&linkMask+hold&(1<<(d>>widthPos&widthMask)-1))&(distSize-1)]
			}
			if d&isOddDist != 0 {
				got = badCode
				break
			}
		}
		was = hold
		hold >>= d & takeMask
		used += uint32(d)
		dist := int(d>>distPos) + int(was>>(d>>distCodePos&63)&(d>>distMaskPos&(1<<13-1)))
		if dist > wp-z.start {
			got = badDist
			break
		}
		e = tab.lit[hold&(1<<litRoot-1)]
		from := wp - dist
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
			// Each unit begins where the next period does, and is read as it was written:
			// what is in the processor's queue of stores cannot be read otherwise.
			for {
				copy16(out, wp, from)
				wp += dist
				from += dist
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
			// As many whole periods as fit, again and again.
			v := load64(out, from) & (1<<(8*dist) - 1)
			v |= v << (8 * dist)
			v |= v << (16 * dist)
			period := int(periods[dist&7])
			for {
				store64(out, wp, v)
				wp += period
				if wp >= end {
					break
				}
			}
		}
		wp = end
	}
	z.pos, z.wp, z.nbits = pos, wp, uint64(63-used&63)
	z.hold = hold & (1<<z.nbits - 1)
	return got
}

// periods is how many bytes of 8 are whole periods of a distance, which is the index.
var periods = [8]uint8{0, 8, 8, 6, 8, 5, 6, 7}
