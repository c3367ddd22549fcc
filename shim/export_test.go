package shim

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/berthd/berth/shim/api"
)

// SetMuteAfter is how long tests want a silent shim to be waited for. It comes before the first call.
func (s *Shims) SetMuteAfter(d time.Duration) { s.muteAfter = d }

// IsOrphan is isOrphan.
func IsOrphan(pid, session int) bool { return isOrphan(pid, session) }

// SharedFilters is how many filters there are for new shims.
func (s *Shims) SharedFilters() int {
	s.filters.mu.Lock()
	defer s.filters.mu.Unlock()
	return len(s.filters.known)
}

// SwapFilters has the filters for new shims pass for one another, in turns.
func (s *Shims) SwapFilters() {
	s.filters.mu.Lock()
	defer s.filters.mu.Unlock()
	of := s.filters.known
	keys := slices.Sorted(maps.Keys(of))
	for i := range keys[1:] {
		of[keys[i]], of[keys[i+1]] = of[keys[i+1]], of[keys[i]]
	}
}

// MeetLost meets a shim, which has told those tasks, when the connection to it is lost already.
func (s *Shims) MeetLost(ctx context.Context, shimID string, tasks []*api.TaskInfo) error {
	p := newProcess(s, shimID)
	s.mu.Lock()
	s.procs[shimID] = p
	s.mu.Unlock()
	c, err := s.connect(ctx, p)
	if err != nil {
		return err
	}
	s.lose(p, c)
	close(p.ready)
	s.meet(p, tasks)
	return nil
}
