package shim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/berthd/berth/shim/api"
	"github.com/containerd/ttrpc"
	"k8s.io/klog/v2"
)

const (
	// replaceLimit is how long a successor may take to answer. It has then taken over all
	// its containers.
	replaceLimit = time.Minute
	// replaceTries is how often it is tried to start one. Then the containers are stopped.
	replaceTries = 5
	// deathsSpan is how long a death is remembered: with each more than a few of them, the
	// next successor waits longer.
	deathsSpan = 10 * time.Second
	manyDeaths = 5
)

// lose is told that the connection c has ended, by whoever notices first. A shim that has
// died is replaced, in the background; calls wait for that.
func (s *Shims) lose(p *process, c *ttrpc.Client) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c == nil || p.conn != c {
		return
	}
	p.conn = nil
	go c.Close() // for who has found it of no use
	if p.closed || s.ctx.Err() != nil {
		return
	}
	select {
	case <-p.answered:
	default:
		return // who waits for its first answer goes on with it
	}
	if p.away == nil { // else who looks for it sees
		p.away = make(chan struct{})
		s.work.Go(func() { s.lookFor(p) })
	}
}

// lookFor finds a shim that is away again, or a successor, or gives it up for dead.
func (s *Shims) lookFor(p *process) {
	for {
		err := s.regain(p)
		p.mu.Lock()
		if err == nil && p.conn == nil && !p.closed && s.ctx.Err() == nil { // lost already
			p.mu.Unlock()
			continue
		}
		close(p.away)
		p.away = nil
		p.mu.Unlock()
		if err != nil && s.ctx.Err() == nil {
			if !errors.Is(err, errNoHeirs) {
				klog.ErrorS(err, "A shim is dead", "shim", p.id)
			}
			s.sweep(p)
		}
		return
	}
}

// regain connects again to a shim whose connection was lost, or replaces it. The error says why
// there is none.
func (s *Shims) regain(p *process) error {
	c, err := s.connect(s.ctx, p)
	if err == nil {
		if _, err = s.greet(p, c); err == nil { // it has executed another version of itself, say
			return nil
		}
	}
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	if !isDeath(err) {
		klog.ErrorS(err, "A shim is lost but not dead", "shim", p.id)
		_ = s.pause(askAgain)
		return nil // to be looked for again
	}
	_, err = s.replace(p)
	return err
}

// greet has a shim that was connected to tell its containers and hand out their descriptors.
func (s *Shims) greet(p *process, c *ttrpc.Client) ([]*api.TaskInfo, error) {
	ctx, cancel := context.WithTimeout(s.ctx, replaceLimit)
	defer cancel()
	infos, err := p.hello(ctx, c)
	if err != nil {
		return nil, err
	}
	s.keep(ctx, p)
	return infos, nil
}

// errNoHeirs: the shim has ended, and nothing that it kept is left.
var errNoHeirs = errors.New("no container of it is left")

// replace starts a successor of a shim that is dead, and returns the containers that it has. It
// has the same folder, the containers on record there, and the descriptors in escrow.
func (s *Shims) replace(p *process) ([]*api.TaskInfo, error) {
	p.escrow.wait(s.ctx)
	if !s.hasHeirs(p) {
		return nil, errNoHeirs
	}
	var err error
	for range replaceTries {
		if err := s.pause(p.mourning()); err != nil {
			return nil, err
		}
		var infos []*api.TaskInfo
		if infos, err = s.succeed(p); err == nil {
			klog.InfoS("A shim has died and was replaced", "shim", p.id, "containers", len(infos))
			s.lookForUpgrades() // who has just looked may have seen the dead one
			return infos, nil
		}
		klog.ErrorS(err, "Replacing a shim", "shim", p.id)
	}
	return nil, fmt.Errorf("no successor of it answers: %w: %w", ErrUnavailable, err)
}

// succeed starts a successor once.
func (s *Shims) succeed(p *process) ([]*api.TaskInfo, error) {
	h, err := p.escrow.heritage()
	if err != nil {
		return nil, err
	}
	err = s.spawn(p, h)
	h.close()
	if err != nil {
		return nil, err
	}
	c, err := s.connect(s.ctx, p)
	if err != nil {
		return nil, err
	}
	infos, err := s.greet(p, c)
	if err == nil {
		s.mind(p, infos)
	}
	return infos, err
}

// hasHeirs reports whether a shim has containers of which no exit is on record.
func (s *Shims) hasHeirs(p *process) bool {
	s.mu.Lock()
	var mine []*entry
	for _, e := range s.tasks {
		if e.p == p {
			mine = append(mine, e)
		}
	}
	s.mu.Unlock()
	return slices.ContainsFunc(mine, func(e *entry) bool {
		_, err := e.record()
		return err != nil
	})
}

// mourning notes a death and returns how long to wait before the next successor.
func (p *process) mourning() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.deaths = append(slices.DeleteFunc(p.deaths, func(at time.Time) bool { return now.Sub(at) > deathsSpan }), now)
	return time.Second * time.Duration(max(0, len(p.deaths)-manyDeaths))
}

// pause waits, or returns the error when we are closed.
func (s *Shims) pause(d time.Duration) error {
	if d == 0 {
		return context.Cause(s.ctx)
	}
	select {
	case <-time.After(d):
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

// inherit goes on with the containers that a shim which was found dead has on record. Until its
// successor answers they are what their records say.
func (s *Shims) inherit(p *process, cause error) {
	if _, err := s.enterRecords(p); err != nil || !s.hasHeirs(p) {
		s.adoptDead(p, cause)
		return
	}
	s.work.Go(func() {
		infos, err := s.replace(p)
		switch {
		case s.ctx.Err() != nil:
			p.close()
		case err != nil:
			s.adoptDead(p, errors.Join(cause, err))
		default:
			s.meet(p, infos)
		}
	})
}
