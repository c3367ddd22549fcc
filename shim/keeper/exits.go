package keeper

import (
	"context"
	"slices"
	"sync"

	"github.com/berthd/berth/shim/api"
)

// The watchers are told of each task that exits. One that is slow holds nobody up: what it
// has not taken yet is kept for it.
type watchers struct {
	mu  sync.Mutex
	all []*watcher
}

// A watcher is one who is told.
type watcher struct {
	ids  []string      // to be taken; guarded by the watchers' mu
	more chan struct{} // holds a token when there are some
}

// join adds a watcher, until it leaves.
func (ls *watchers) join() *watcher {
	l := &watcher{more: make(chan struct{}, 1)}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.all = append(ls.all, l)
	return l
}

func (ls *watchers) leave(l *watcher) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.all = slices.DeleteFunc(ls.all, func(o *watcher) bool { return o == l })
}

// tell tells all that a task has exited.
func (ls *watchers) tell(id string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, l := range ls.all {
		l.ids = append(l.ids, id)
		select {
		case l.more <- struct{}{}:
		default:
		}
	}
}

// next waits for tasks that have exited and takes them.
func (ls *watchers) next(ctx context.Context, l *watcher) ([]string, error) {
	select {
	case <-l.more:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ids := l.ids
	l.ids = nil
	return ids, nil
}

func (s *keeperService) Exits(ctx context.Context, _ *api.ExitsRequest, out api.Keeper_ExitsServer) error {
	l := s.k.watchers.join() // before the look: what exits meanwhile is told twice rather than never
	defer s.k.watchers.leave(l)
	var ids []string
	for _, t := range s.k.list() {
		if t.snapshot().status == exited {
			ids = append(ids, t.rec.ID)
		}
	}
	for {
		if len(ids) > 0 {
			if err := out.Send(&api.ExitsChunk{Ids: ids}); err != nil {
				return toStatus(err)
			}
		}
		var err error
		if ids, err = s.k.watchers.next(ctx, l); err != nil {
			return toStatus(err)
		}
	}
}
