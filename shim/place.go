package shim

import "context"

// place picks the shim for a pod's next container and counts the container in.
// The pod's own shim comes first, then the fullest that answers and has room, so
// that the others may run empty; else a new one is started. It returns when the
// shim is connected.
func (s *Shims) place(ctx context.Context, podID string) (*process, error) {
	for {
		p, untried := s.pick(podID)
		select {
		case <-p.ready:
		case <-ctx.Done():
			s.unplace(p, podID)
			return nil, context.Cause(ctx)
		}
		if untried && !p.answers(ctx) {
			s.unplace(p, podID)
			continue
		}
		if _, err := p.client(ctx, nil); err != nil {
			s.unplace(p, podID)
			return nil, err
		}
		return p, nil
	}
}

// pick is place's choice. It is untried when it was there before and the pod is new to it.
func (s *Shims) pick(podID string) (best *process, untried bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.procs {
		if p.isDead() {
			continue
		}
		if p.pods[podID] > 0 {
			p.pods[podID]++
			return p, false
		}
		if s.mayTakeLocked(p) && (best == nil || len(p.pods) > len(best.pods)) {
			best = p
		}
	}
	untried = best != nil
	if !untried {
		best = s.startLocked()
	}
	best.pods[podID]++
	return best, untried
}

// startLocked has a new shim started.
func (s *Shims) startLocked() *process {
	p := newProcess(s, newID())
	s.procs[p.id] = p
	s.work.Go(func() { s.launch(p) })
	return p
}

// mayTakeLocked reports whether a shim that is not dead may get a new pod.
func (s *Shims) mayTakeLocked(p *process) bool {
	return !p.isSilent() && !p.isAway() && !p.isOutdated() && !p.isMute() && len(p.pods) < s.o.PodsPerProcess
}

// unplace counts a container out again.
func (s *Shims) unplace(p *process, podID string) {
	s.mu.Lock()
	p.countOut(podID)
	s.mu.Unlock()
	s.retire(p)
}

// retire ends a shim that is empty, unless it is to stay for the next pod: one is.
func (s *Shims) retire(p *process) {
	s.mu.Lock()
	var spare *process
	if p.isEmptyLocked() {
		if p.isOutdated() {
			spare = p
		}
		for _, o := range s.procs {
			if o != p && o.isEmptyLocked() {
				spare = p
			}
		}
	}
	if spare != nil {
		delete(s.procs, spare.id)
	}
	s.mu.Unlock()
	if spare != nil {
		spare.close()
	}
	s.sweep(p)
}

// isEmptyLocked reports whether a live shim has no container, and is to hear of none.
func (p *process) isEmptyLocked() bool {
	return len(p.pods) == 0 && p.late == 0 && !p.isDead() && !p.isSilent()
}

// countOut counts a container out. The caller holds Shims.mu.
func (p *process) countOut(podID string) {
	if p.pods[podID]--; p.pods[podID] <= 0 {
		delete(p.pods, podID)
	}
}
