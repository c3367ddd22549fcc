package shim

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/ttrpc"
)

// A usage is what we have under way at a shim that must end before it executes another
// program: a call under way then would have come to an end that nobody knows. Calls that
// change nothing are not counted; they are made again. The process's mu guards it.
type usage struct {
	calls   int           // each ends soon
	streams int           // commands and attachments, which may take for ever
	quiet   chan struct{} // not nil while it is waited for that there are no calls
	held    bool          // calls wait: the process is away for an upgrade
}

// quietLimit is how long calls under way may take to end before an upgrade. Others wait
// meanwhile, which they do for awayLimit.
const quietLimit = 3 * time.Second

// leave counts a use out that client has counted in, if it has. An upgrade that waits for it
// is tried again.
func (p *process) leave(count *int) {
	if count == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	*count--
	if p.usage.quiet != nil && p.usage.calls == 0 {
		close(p.usage.quiet)
		p.usage.quiet = nil
	}
	if p.usage.streams == 0 && p.busy {
		p.busy = false
		p.shims.lookForUpgrades()
	}
}

// hold has calls to a shim wait, and returns its connection when none is under way. When that
// is not to be, waitsFor says why, and nothing waits. Otherwise it is over with s.letGo.
func (p *process) hold(ctx context.Context) (c *ttrpc.Client, waitsFor string) {
	p.mu.Lock()
	switch {
	case p.conn == nil || p.away != nil || p.closed:
		p.mu.Unlock()
		return nil, "it is away"
	case p.usage.streams > 0:
		defer p.mu.Unlock()
		return nil, fmt.Sprintf("commands and attachments: %d", p.usage.streams)
	}
	c = p.conn
	p.away, p.usage.held = make(chan struct{}), true
	quiet := make(chan struct{})
	if p.usage.calls == 0 {
		close(quiet)
	} else {
		p.usage.quiet = quiet
	}
	p.mu.Unlock()
	limit := time.NewTimer(quietLimit)
	defer limit.Stop()
	select {
	case <-quiet:
		return c, ""
	case <-limit.C:
	case <-ctx.Done():
	}
	p.mu.Lock()
	waitsFor = fmt.Sprintf("calls: %d", p.usage.calls)
	p.usage.quiet = nil
	p.mu.Unlock()
	p.shims.letGo(p)
	return nil, waitsFor
}

// letGo ends hold: calls go on, to whoever is there.
func (s *Shims) letGo(p *process) {
	p.mu.Lock()
	if p.conn != nil || p.closed {
		close(p.away)
		p.away, p.usage.held = nil, false
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	s.lookFor(p) // which lets calls go on
	p.mu.Lock()
	p.usage.held = false
	p.mu.Unlock()
}
