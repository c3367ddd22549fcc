package shim

import (
	"context"
	"fmt"
	"time"

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

// isStopped reports whether the shim's process is stopped, as far as is known.
func (p *process) isStopped() bool {
	p.mu.Lock()
	info := p.info
	p.mu.Unlock()
	return info != nil && info.Pid != 0 && procstat.Read(int(info.Pid)).IsStopped()
}

// killWithout sends a signal without the shim, which is stopped. To find all of a container's
// processes takes a shim: that is ErrNoAnswer.
func (e *entry) killWithout(signal int, all bool) error {
	e.p.shims.work.Go(func() { e.p.answers(e.p.shims.ctx) }) // it gets no new pods
	err := fmt.Errorf("its shim is stopped: %w", ErrNoAnswer)
	if !all {
		err = e.p.escrow.signal(e.id, signal)
	}
	if err != nil {
		return fmt.Errorf("container %s: %w", e.id, err)
	}
	return nil
}

// suspect has a shim asked whether it answers when a call to it takes long, so that the next pod
// need not wait to find out. The caller calls its result when the call is over.
func (p *process) suspect() (stop func() bool) {
	return time.AfterFunc(p.shims.muteAfter, func() { p.answers(p.shims.ctx) }).Stop
}
