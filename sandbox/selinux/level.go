package selinux

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
)

// ErrNoLevel is returned when every level is some pod's: there are 523 776.
var ErrNoLevel = errors.New("selinux: no level is left for another pod")

// categories is how many there are in every policy of the field, c0 to c1023.
const categories = 1024

// Levels are the levels of the node's pods, and of containers that have one of their own,
// each two categories of sensitivity s0, as
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
	if _, taken := l.holder[plain(level)]; !taken {
		l.holder[plain(level)] = holder
	}
}

// plain is the level as Take writes it, when it is of two categories: kubelet's may be
// s0:c2,c1 or s0:c1.c2, which are s0:c1,c2 to the kernel. Of a range it is the upper end.
func plain(level string) string {
	level = level[strings.LastIndexByte(level, '-')+1:]
	of, list, _ := strings.Cut(level, ":")
	a, b, two := strings.Cut(strings.ReplaceAll(list, ".", ","), ",")
	first, err1 := strconv.Atoi(strings.TrimPrefix(a, "c"))
	last, err2 := strconv.Atoi(strings.TrimPrefix(b, "c"))
	if !two || err1 != nil || err2 != nil || strings.Contains(list, ".") && last != first+1 {
		return level
	}
	return fmt.Sprintf("%s:c%d,c%d", of, min(first, last), max(first, last))
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
	level = plain(level)
	if l.holder[level] != holder {
		return
	}
	delete(l.holder, level)
	for other, its := range l.held { // seldom: a level is shared only when kubelet says so
		if plain(its) == level {
			l.holder[level] = other
			return
		}
	}
}
