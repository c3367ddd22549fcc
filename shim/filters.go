package shim

import (
	"context"
	"sync"
	"time"

	"github.com/berthd/berth/shim/api"
	"github.com/containerd/ttrpc"
	"k8s.io/klog/v2"
)

const (
	// maxShared bounds the filters that are kept for new shims. A node has a handful.
	maxShared = 16
	// learnPause is how long a shim is not asked again for filters that it has compiled.
	learnPause = time.Minute
	// shareLimit is how long a shim may take to give or take them.
	shareLimit = time.Second
)

// filters are the seccomp filters that shims have compiled, for those that are started: to
// compile one takes as long as to start several containers. They are of one release's shims,
// the last that was heard of. The zero value is ready; it is safe for concurrent use.
type filters struct {
	mu      sync.Mutex
	release string            // guarded by mu
	known   map[string][]byte // by key; guarded by mu
}

// list is those for a shim of that release.
func (f *filters) list(release string) (all []*api.Filter) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if release != f.release {
		return nil
	}
	for key, program := range f.known {
		all = append(all, &api.Filter{Key: []byte(key), Program: program})
	}
	return all
}

// add adds those of a shim of that release, as long as there is room.
func (f *filters) add(release string, all []*api.Filter) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known == nil || release != f.release {
		f.release, f.known = release, map[string][]byte{}
	}
	for _, filter := range all {
		if len(f.known) < maxShared {
			f.known[string(filter.Key)] = filter.Program
		}
	}
}

// share gives a shim that was just started what others have compiled. Without that it
// compiles its own.
func (s *Shims) share(p *process, c *ttrpc.Client) {
	all := s.filters.list(p.release())
	if len(all) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, shareLimit)
	defer cancel()
	if _, err := api.NewKeeperClient(c).ShareFilters(ctx, &api.ShareFiltersRequest{Filters: all}); err != nil {
		klog.V(2).InfoS("A shim does not take seccomp filters; it compiles its own", "shim", p.id, "err", err)
	}
}

// learn asks a shim, in the background and now and then, what filters it has.
func (s *Shims) learn(p *process) {
	if !p.mayBeAsked(time.Now()) {
		return
	}
	s.work.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, shareLimit)
		defer cancel()
		c, err := p.client(ctx, &p.usage.calls)
		if err != nil {
			return
		}
		defer p.leave(&p.usage.calls)
		if resp, err := api.NewKeeperClient(c).ShareFilters(ctx, &api.ShareFiltersRequest{}); err == nil {
			s.filters.add(p.release(), resp.Filters)
		}
	})
}

// mayBeAsked reports whether it is time to learn from p, and takes that as done.
func (p *process) mayBeAsked(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.learned) < learnPause {
		return false
	}
	p.learned = now
	return true
}

// release is what p has said of itself last.
func (p *process) release() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.info.GetVersion()
}
