package selinux

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
)

// ErrNoLevel is returned when every level is some pod's: there are 523 776.
var ErrNoLevel = errors.New("selinux: no level is left for another pod")

// categories is how many there are in every policy of the field, c0 to c1023.
const categories = 1024

// Levels are the levels of the node's pods, each two categories of sensitivity s0, as
// the field has them. The zero value is ready, and safe for concurrent use.
type Levels struct {
	mu     sync.Mutex
	holder map[string]string // by level; the first who holds it
	held   map[string]string // by holder

	categories int // 0: as many as there are; fewer in tests
}

// Take gives the holder a level that nobody else holds, the same when it has one.
func (l *Levels) Take(holder string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if level, ok := l.held[holder]; ok {
		return level, nil
	}
	n := l.categories
	if n == 0 {
		n = categories
	}
	// From a random place on, so that the next daemon does not give a level that files of
	// a pod that is just gone still have.
	pairs := n * n
	for i, start := 0, rand.IntN(pairs); i < pairs; i++ {
		a, b := (start+i)%pairs/n, (start+i)%pairs%n
		if a >= b {
			continue
		}
		level := fmt.Sprintf("s0:c%d,c%d", a, b)
		if _, taken := l.holder[level]; taken {
			continue
		}
		l.keep(holder, level)
		return level, nil
	}
	return "", ErrNoLevel
}

// Keep notes that the holder has the level, whoever else has it: kubelet said so, or a
// daemon before.
func (l *Levels) Keep(holder, level string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keep(holder, level)
}

func (l *Levels) keep(holder, level string) {
	if l.holder == nil {
		l.holder, l.held = map[string]string{}, map[string]string{}
	}
	l.held[holder] = level
	if _, taken := l.holder[level]; !taken {
		l.holder[level] = holder
	}
}

// Release gives the holder's level back. It may be repeated. A level that others hold
// too stays theirs.
func (l *Levels) Release(holder string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	level, ok := l.held[holder]
	if !ok {
		return
	}
	delete(l.held, holder)
	if l.holder[level] != holder {
		return
	}
	delete(l.holder, level)
	for other, its := range l.held { // seldom: pods share a level only when kubelet says so
		if its == level {
			l.holder[level] = other
			return
		}
	}
}
