package logfile

import "time"

// A bucket limits a rate: what may be written is what it holds.
type bucket struct {
	rate, burst float64 // bytes per second, and most it holds; no rate is no limit
	holds       float64
	dry         bool // until it is half full again
	at          time.Time
}

func newBucket(rate, burst int64) bucket {
	if burst <= 0 {
		burst = rate
	}
	return bucket{rate: float64(rate), burst: float64(burst), holds: float64(burst)}
}

// open says whether something may be written, and if not, when to ask again. It opens again
// when it is half full, or after a second, so that a loss is one of many lines.
func (b *bucket) open(now time.Time) (bool, time.Duration) {
	if b.rate == 0 {
		return true, 0
	}
	if !b.at.IsZero() {
		b.holds = min(b.burst, b.holds+b.rate*now.Sub(b.at).Seconds())
	}
	b.at = now
	if !b.dry {
		return true, 0
	}
	want := min(b.burst/2, b.rate)
	if b.holds < want {
		return false, time.Duration((want - b.holds) / b.rate * float64(time.Second))
	}
	b.dry = false
	return true, 0
}

// pour takes n bytes, which may be more than there is.
func (b *bucket) pour(n int64) {
	if b.rate == 0 {
		return
	}
	b.holds -= float64(n)
	b.dry = b.holds <= 0
}
