package sandbox

import (
	"context"
	"sync"
	"time"
)

const (
	sampleEvery = 10 * time.Second // as often as kubelet looks
	sampleIdle  = time.Minute      // the sampler ends when nobody has asked for so long
	shortest    = time.Second      // the shortest time that a rate is taken over
)

// A point is a CPU counter at a time.
type point struct {
	at    time.Time
	usage uint64 // cumulative, nanoseconds
}

// A sampler keeps two points of each cgroup, so that a rate can be told at once, taken
// over the last 5 to 20 seconds. The first answer after an idle time has no rate: there
// is nothing yet to take it from, and kubelet then computes its own. From a second
// later on there is one.
type sampler struct {
	read  func() map[string]point     // of all that runs, by ID
	rest  func()                      // nobody asks any more
	start func(func(context.Context)) // runs the work in the background

	mu     sync.Mutex
	asked  time.Time
	runs   bool
	points map[string][2]point // older, newer; the older may be zero
}

// ask notes that somebody wants rates, and wakes the sampler.
func (s *sampler) ask() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = time.Now()
	if !s.runs {
		s.runs = true
		s.start(s.run)
	}
}

// run samples until nobody asks any more. No timer is left behind.
func (s *sampler) run(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.idle() {
			s.rest()
			return
		}
		s.take(s.read())
	}
}

// idle tells whether the sampler may end, and forgets all if so.
func (s *sampler) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.asked) <= sampleIdle {
		return false
	}
	s.runs, s.points = false, nil
	return true
}

// take replaces the points by a new reading of all that runs.
func (s *sampler) take(now map[string]point) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := make(map[string][2]point, len(now))
	for id, p := range now {
		next[id] = [2]point{s.points[id][1], p}
	}
	s.points = next
}

// rate is how many nanoseconds of CPU time were used in a second, up to now; nil when
// there is nothing to take it from.
func (s *sampler) rate(id string, now point) *uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	have, ok := s.points[id]
	if !ok {
		if s.points == nil {
			s.points = map[string][2]point{}
		}
		s.points[id] = [2]point{1: now}
		return nil
	}
	from := have[1]
	if now.at.Sub(from.at) < sampleEvery/2 && !have[0].at.IsZero() {
		from = have[0]
	}
	span := now.at.Sub(from.at)
	if span < shortest || now.usage < from.usage {
		return nil
	}
	return new(uint64(float64(now.usage-from.usage) / span.Seconds()))
}
