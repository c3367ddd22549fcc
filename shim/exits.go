package shim

import (
	"context"
	"errors"
	"fmt"

	"github.com/berthd/berth/shim/api"
	taskapi "github.com/berthd/berth/shim/api/task"
	"github.com/containerd/ttrpc"
)

// A hearing is how the ends of a shim's containers are heard of. Guarded by Shims.mu.
type hearing int

const (
	notHeard  hearing = iota // nobody has asked yet, or the shim is dead
	heardOnce                // one call tells of all
	heardEach                // a call for each: the shim is of a release that has no other
)

// watchLocked has the container's exit waited for, however many callers Wait has.
func (s *Shims) watchLocked(e *entry) {
	if e.watched {
		return
	}
	e.watched = true
	switch e.p.hearing {
	case notHeard:
		e.p.hearing = heardOnce
		s.work.Go(func() { s.hear(e.p) })
	case heardEach:
		e.awaited = true
		s.work.Go(func() { s.await(e) })
	}
}

// await completes the entry of a container of a shim that has no call for all. When such a shim
// is connected to anew, it may have executed a release that has. One that is silent still has its
// containers.
func (s *Shims) await(e *entry) {
	exit, err, again := e.await(s.ctx)
	if err != nil && !errors.Is(err, ErrNotFound) && !e.p.isDead() {
		again = s.pause(askAgain) == nil
	}
	if !again {
		e.end(exit, err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.p.hearing == heardEach {
		e.p.hearing = notHeard
	}
	e.watched, e.awaited = false, false
	s.watchLocked(e)
}

// hear completes the entries of a shim's containers as they end, until we are closed or the shim
// is dead. Then it completes those that are left.
func (s *Shims) hear(p *process) {
	select {
	case <-p.answered:
	case <-s.ctx.Done():
	}
	err := context.Cause(s.ctx)
	for s.ctx.Err() == nil {
		err = p.callAs(s.ctx, nil, func(c *ttrpc.Client) error { return s.listen(p, c) }) // for as long as there is a shim
		if errors.Is(err, ErrUnimplemented) || p.isDead() || s.pause(askAgain) != nil {
			break
		}
	}
	s.mu.Lock()
	p.hearing = notHeard
	left := s.watchedLocked(p)
	if errors.Is(err, ErrUnimplemented) {
		p.hearing = heardEach
		for _, e := range left {
			if !e.awaited {
				e.watched = false
				s.watchLocked(e)
			}
		}
		left = nil
	}
	s.mu.Unlock()
	for _, e := range left {
		e.endWith(err)
	}
}

// watchedLocked are the entries of a shim of which the ends are waited for.
func (s *Shims) watchedLocked(p *process) (all []*entry) {
	for _, e := range s.tasks {
		if e.p == p && e.watched {
			all = append(all, e)
		}
	}
	return all
}

// dropMissing ends the containers that a shim should have and has not: one that it could not take
// over from a predecessor is nobody's.
func (s *Shims) dropMissing(p *process, c *ttrpc.Client) error {
	s.mu.Lock()
	watched := s.watchedLocked(p) // before the shim is asked: what it makes meanwhile is none of these
	s.mu.Unlock()
	resp, err := api.NewKeeperClient(c).List(s.ctx, &api.ListRequest{})
	if err != nil {
		return err
	}
	has := map[string]bool{}
	for _, i := range resp.Tasks {
		has[i.Id] = true
	}
	for _, e := range watched {
		if has[e.id] {
			continue
		}
		s.mu.Lock()
		if s.tasks[e.id] == e {
			delete(s.tasks, e.id)
			p.countOut(e.podID)
		}
		s.mu.Unlock()
		e.endWith(ErrNotFound)
		s.retire(p) // who is deleting it will not
	}
	return nil
}

// listen is told of ends over one connection, until that is lost.
func (s *Shims) listen(p *process, c *ttrpc.Client) error {
	if err := s.dropMissing(p, c); err != nil {
		return err
	}
	stream, err := api.NewKeeperClient(c).Exits(s.ctx, &api.ExitsRequest{})
	for err == nil {
		var chunk *api.ExitsChunk
		if chunk, err = stream.Recv(); err != nil {
			break
		}
		for _, id := range chunk.Ids {
			s.hasEnded(p, id)
		}
	}
	return err
}

// hasEnded completes the entry of a container that is said to have ended. It does not wait for
// the shim: its answers come behind what it says next of this.
func (s *Shims) hasEnded(p *process, id string) {
	e, err := s.entry(id)
	if err != nil || e.p != p {
		return
	}
	if exit, err := e.record(); err == nil {
		e.end(exit, nil)
		return
	}
	s.work.Go(func() { // its bundle is gone; the shim still knows
		// After an error it is told again, over the next connection, or the shim is dead, or the
		// container deleted: that completes the entry.
		if st, err := e.ask(s.ctx); err == nil && st.Status == StatusExited {
			e.end(st.Exit, nil)
		}
	})
}

// await asks a shim for one container's end, and the exit record when the shim is gone. It asks
// over one connection; again says that there is another since.
func (e *entry) await(ctx context.Context) (exit Exit, err error, again bool) {
	var asked bool
	err = e.p.callAs(ctx, nil, func(c *ttrpc.Client) error { // for as long as the container runs
		if asked {
			again = true
			return nil
		}
		asked = true
		_, err := taskapi.NewTaskClient(c).Wait(ctx, &taskapi.WaitRequest{Id: e.id})
		return err
	})
	if exit, rerr := e.record(); rerr == nil {
		return exit, nil, false
	}
	if again {
		return Exit{}, nil, true
	}
	if err == nil { // its bundle is gone; the shim still knows
		var st TaskState
		if st, err = e.ask(ctx); err == nil {
			return st.Exit, nil, false
		}
	}
	return Exit{}, fmt.Errorf("container %s: %w", e.id, err), false
}

// end completes an entry, once. When we are closed nobody is told of an error that comes of that.
func (e *entry) end(exit Exit, err error) {
	e.mu.Lock()
	if e.over {
		e.mu.Unlock()
		return
	}
	e.over, e.exit, e.err = true, exit, err
	then := e.then
	e.then = nil
	e.mu.Unlock()
	close(e.done)
	if err != nil && e.p.shims.ctx.Err() != nil {
		return
	}
	for _, f := range then {
		f(exit, err)
	}
}

// endWith completes an entry with its exit record, or with err when there is none.
func (e *entry) endWith(err error) {
	if exit, rerr := e.record(); rerr == nil {
		e.end(exit, nil)
		return
	}
	e.end(Exit{}, fmt.Errorf("container %s: %w", e.id, err))
}

// endDeleted completes the entry of a container that has been deleted. Without a record whoever
// has deleted it knows as much as anybody.
func (e *entry) endDeleted() {
	if _, err := e.record(); err != nil {
		e.mu.Lock()
		e.then = nil
		e.mu.Unlock()
	}
	e.endWith(ErrNotFound)
}

// ended is how the container has ended, if that is known: by a record, while the shim has not
// answered since Open.
func (e *entry) ended() (exit Exit, err error, over bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over {
		return e.exit, e.err, true
	}
	if e.p.isSilent() {
		exit, err := e.record()
		return exit, nil, err == nil
	}
	return Exit{}, nil, false
}

// Wait waits until the container's process has ended, its output is logged and
// its exit record is written. When its shim died before that, ErrUnavailable. A
// shim that does not answer is waited for.
func (s *Shims) Wait(ctx context.Context, id string) (Exit, error) {
	e, err := s.entry(id)
	if err != nil {
		return Exit{}, err
	}
	if exit, err, over := e.ended(); over {
		return exit, err
	}
	s.mu.Lock()
	s.watchLocked(e)
	s.mu.Unlock()
	select {
	case <-e.done:
	case <-ctx.Done():
		return Exit{}, context.Cause(ctx)
	}
	exit, err, _ := e.ended()
	return exit, err
}

// OnExit has f called with what Wait would return, once it would. f must not wait for anything.
// It is not called for a container that is deleted and of which nobody knows how it has ended.
func (s *Shims) OnExit(id string, f func(Exit, error)) {
	e, err := s.entry(id)
	if err != nil {
		f(Exit{}, err)
		return
	}
	s.mu.Lock()
	s.watchLocked(e)
	s.mu.Unlock()
	exit, err, over := e.ended()
	if !over {
		e.mu.Lock()
		if over = e.over; over {
			exit, err = e.exit, e.err
		} else {
			e.then = append(e.then, f)
		}
		e.mu.Unlock()
	}
	if over {
		f(exit, err)
	}
}
