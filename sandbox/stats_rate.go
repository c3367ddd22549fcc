package sandbox

import (
	"context"
	"sync"
	"time"
)

const (
	shortest = time.Second      // the shortest time that a rate is taken over
	span     = 5 * time.Second  // the shortest, where there is something to take it from
	askedFor = 2 * time.Minute  // what is kept between questions is let go when nobody asks for so long
	tidyUp   = 10 * time.Second // how often what is kept is looked through meanwhile
)

// A point is a CPU counter at a time.
type point struct {
	at    time.Time
	usage uint64 // cumulative, nanoseconds
}

// rates keeps two points of each cgroup, from the questions before, so that a rate can be told at
// once. It is taken over the time since the question before; when that is less than 5 seconds, over
// 15 at most, with the one before it. The first answer after two minutes without questions has
// none: there is nothing to take it from, and kubelet then computes its own. From a second later
// on there is one. No timer reads counters that nobody asks for.
type rates struct {
	mu     sync.Mutex
	points map[string][2]point // older, newer; the older may be zero
}

// rate is how many nanoseconds of CPU time were used in a second, up to now; nil when
// there is nothing to take it from.
func (r *rates) rate(id string, now point) *uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.points == nil {
		r.points = map[string][2]point{}
	}
	older, newer := r.points[id][0], r.points[id][1]
	age := now.at.Sub(newer.at)
	if newer.at.IsZero() || age > askedFor || age >= shortest && now.usage < newer.usage {
		r.points[id] = [2]point{1: now}
		return nil
	}
	from := newer
	if age >= span {
		r.points[id] = [2]point{newer, now}
	} else if !older.at.IsZero() && (age < shortest || now.at.Sub(older.at) <= 3*span) {
		from = older
	}
	took := now.at.Sub(from.at)
	if took < shortest || now.usage < from.usage { // of two that ask at once one has read before the other
		return nil
	}
	return new(uint64(float64(now.usage-from.usage) / took.Seconds()))
}

// forget drops what nobody has asked for since then.
func (r *rates) forget(then time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, have := range r.points {
		if have[1].at.Before(then) {
			delete(r.points, id)
		}
	}
	if len(r.points) == 0 {
		r.points = nil // an empty one keeps its room
	}
}

// asked is when somebody has asked for stats. What is kept for the next question is tidied up
// while questions come, and let go when none has come for two minutes.
type asked struct {
	start func(func(context.Context)) // runs the work in the background
	tidy  func(all bool)

	mu    sync.Mutex
	last  time.Time // when it was tidied up
	letGo *time.Timer
}

// note is called with each question.
func (a *asked) note() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.letGo == nil {
		a.letGo = time.AfterFunc(askedFor, func() { a.start(func(context.Context) { a.tidy(true) }) })
	} else {
		a.letGo.Reset(askedFor)
	}
	if time.Since(a.last) < tidyUp {
		return
	}
	a.last = time.Now()
	a.start(func(context.Context) { a.tidy(false) })
}
