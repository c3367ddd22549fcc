package shim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berthd/berth/shim/api"
	"github.com/berthd/berth/shim/keeper/pidfd"
	"github.com/berthd/berth/shim/keeper/procstat"
	"k8s.io/klog/v2"
)

// muteAfter is how late an answer may come that takes a shim microseconds, before new pods are
// given another one. It is long for a machine that is busy, and nothing is lost by a mistake but
// the memory of one more shim.
const muteAfter = 250 * time.Millisecond

// answers asks a shim for nothing and reports whether it answers within muteAfter. One that does
// not is mute until it does: it gets no new pod. Those that it has wait for it. One that the kernel
// says is stopped (SIGSTOP, a debugger) is not waited for.
func (p *process) answers(ctx context.Context) bool {
	if p.isMute() {
		return false
	}
	if p.shims.ctx.Err() != nil {
		return true
	}
	answer := make(chan struct{})
	p.shims.work.Go(func() {
		_, _ = p.list(p.shims.ctx, newID()) // it has none of that ID; an error is an answer too
		p.mu.Lock()
		defer p.mu.Unlock()
		close(answer)
		if p.mute {
			klog.InfoS("A shim answers again, and gets new pods", "shim", p.id)
		}
		p.mute = false
	})
	patience := p.shims.muteAfter
	if p.isStopped() {
		patience = 0
	}
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case <-answer:
		return true
	case <-ctx.Done():
		return true // as far as is known
	case <-limit.C:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-answer:
		return true
	default:
	}
	if !p.mute {
		klog.InfoS("A shim does not answer, and gets no new pods until it does", "shim", p.id)
	}
	p.mute = true
	p.shims.work.Go(p.shims.standIn)
	return false
}

// standIn starts a shim for the next pod when there is none that may have it, so that the pod need
// not wait for that too.
func (s *Shims) standIn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.procs {
		if !p.isDead() && s.mayTakeLocked(p) {
			return
		}
	}
	s.startLocked()
}

// isMute reports whether the shim has left a question without an answer.
func (p *process) isMute() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mute
}

// stopGlance is how long a process that is stopped is looked at: a tracer stops one for moments.
const stopGlance = 20 * time.Millisecond

// isStopped reports whether the process of a shim that we have a connection to is stopped.
func (p *process) isStopped() bool {
	pid := p.pid()
	if pid == 0 || !procstat.Read(pid).IsStopped() {
		return false
	}
	time.Sleep(stopGlance)
	return procstat.Read(pid).IsStopped()
}

// pid is the shim's process; 0 when that is not known, or when it is dead.
func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.conn == nil:
		return 0
	case p.info.GetPid() != 0:
		return int(p.info.GetPid())
	case procstat.Read(p.spawned.Pid).Began == p.spawned.Began: // it has not answered yet
		return p.spawned.Pid
	}
	return 0
}

// killWithout sends a signal without the shim, which is stopped. To find all of a container's
// processes takes a shim: that is ErrNoAnswer.
func (e *entry) killWithout(signal int, all bool) error {
	e.p.shims.work.Go(func() { e.p.answers(e.p.shims.ctx) }) // it gets no new pods
	err := fmt.Errorf("its shim is stopped: %w", ErrNoAnswer)
	if !all {
		if err = e.p.escrow.signal(e.id, signal); errors.Is(err, ErrNoAnswer) {
			err = e.signalByRecord(signal)
		}
	}
	if err != nil {
		return fmt.Errorf("container %s: %w", e.id, err)
	}
	return nil
}

// signalByRecord sends a signal to the process that the container's record has.
func (e *entry) signalByRecord(signal int) error {
	rec, err := api.ReadTask(api.TaskPath(e.p.dir, e.id))
	if err != nil || rec.Pid == 0 {
		return fmt.Errorf("its process is not known without its shim: %w", errors.Join(ErrNoAnswer, err))
	}
	h, err := pidfd.Open(rec.Pid)
	if err != nil {
		return ErrNotFound
	}
	defer h.Close()
	if procstat.Read(rec.Pid).Began != rec.Began {
		return ErrNotFound
	}
	return h.Signal(signal)
}

// suspect has a shim asked whether it answers when a call to it takes long, so that the next pod
// need not wait to find out. The caller calls its result when the call is over.
func (p *process) suspect() (stop func() bool) {
	return time.AfterFunc(p.shims.muteAfter, func() { p.answers(p.shims.ctx) }).Stop
}

// noteSpawned puts the process that was started on record, for a daemon that the shim does not answer.
func (p *process) noteSpawned(pid int) {
	rec := api.Spawned{Pid: pid, Began: procstat.Read(pid).Began}
	p.mu.Lock()
	p.spawned = rec
	p.mu.Unlock()
	if err := api.WriteSpawned(p.dir, rec); err != nil {
		klog.ErrorS(err, "A shim's process is not on record", "shim", p.id)
	}
}
