package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

const (
	busybox = "docker.io/library/busybox:latest"
	tick    = "docker.io/library/tick:latest"
)

// A slot is the place of a pod, one after the other. Who has taken it owns what is in it.
type slot struct {
	number int
	taken  bool // guarded by motion.mu
	made   int  // pods that there have been
	pod    *pod // nil: none
	// unsure: a call failed in trouble, so what there is of the pod is not known. It is removed
	// before anything else.
	unsure bool
	// shims is how many shims had been killed when it was last looked at what they took along.
	shims int
}

// A pod is what was asked for.
type pod struct {
	id, name   string
	config     *runtimeapi.PodSandboxConfig
	containers map[string]*container // by their names
	sharesPID  bool
}

// A container is what was asked for, and what is to be seen of it.
type container struct {
	id      string
	attempt uint32
	log     string // its path
	rotated int
	begun   time.Time
	exited  bool
	codes   []int32 // if it has: one of these, or any for none
	lost    bool    // with its shim
}

// take takes a slot that is free.
func (m *motion) take(r *rand.Rand) *slot {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		if s := m.slots[r.IntN(len(m.slots))]; !s.taken {
			s.taken = true
			return s
		}
		if !slices.ContainsFunc(m.slots, func(s *slot) bool { return !s.taken }) {
			return nil
		}
	}
}

func (m *motion) give(s *slot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.taken = false
}

// listed is what the CRI has to list, by IDs.
func (m *motion) listed() (pods map[string]*pod, containers map[string]*container) {
	pods, containers = map[string]*pod{}, map[string]*container{}
	for _, s := range m.slots {
		if s.pod == nil {
			continue
		}
		pods[s.pod.id] = s.pod
		for _, c := range s.pod.containers {
			containers[c.id] = c
		}
	}
	return pods, containers
}

// labels lead from a pod to its slot.
func (s *slot) labels() map[string]string { return map[string]string{"slot": fmt.Sprint(s.number)} }

// config is that of the slot's next pod.
func (m *motion) config(s *slot) *runtimeapi.PodSandboxConfig {
	name := fmt.Sprintf("soak-%d-%d", s.number, s.made)
	conf := node.Pod(name, m.world.Dir+"/logs/"+name)
	conf.Labels = s.labels()
	conf.Linux.CgroupParent = m.parent
	if s.number%7 == 0 {
		conf.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	}
	return conf
}

// A gallery is the images that come and go. Who has taken one owns it.
type gallery struct {
	mu    sync.Mutex
	there map[string]presence
	taken map[string]bool
}

type presence int

const (
	absent presence = iota
	present
	unknown
)

func newGallery() *gallery {
	return &gallery{taken: map[string]bool{}, there: map[string]presence{
		"registry.k8s.io/e2e-test-images/nginx:1.14-2": absent, "registry.k8s.io/e2e-test-images/httpd:2.4.39-4": absent,
		"registry.k8s.io/e2e-test-images/nonewprivs:1.3": absent, "docker.io/library/web:latest": absent,
	}}
}

// take takes an image that is free, or "".
func (g *gallery) take(r *rand.Rand) (string, presence) {
	g.mu.Lock()
	defer g.mu.Unlock()
	names := slices.Sorted(maps.Keys(g.there))
	name := names[r.IntN(len(names))]
	if g.taken[name] {
		return "", unknown
	}
	g.taken[name] = true
	return name, g.there[name]
}

func (g *gallery) give(name string, p presence) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.taken[name], g.there[name] = false, p
}

// counts is what was done, by kinds.
type counts struct {
	mu sync.Mutex
	of map[string]int

	shimKills int // guarded by motion.mu, as is lastShim
	lastShim  time.Time
}

func (c *counts) add(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[string]int{}
	}
	c.of[what]++
}

// line lists those whose names begin with prefix.
func (c *counts) line(prefix string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, k := range slices.Sorted(maps.Keys(c.of)) {
		if name, ok := strings.CutPrefix(k, prefix); ok {
			out = append(out, fmt.Sprintf("%s %d", name, c.of[k]))
		}
	}
	return strings.Join(out, ", ")
}
