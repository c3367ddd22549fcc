package shim

import (
	"context"
	"os"
	"os/signal"
	"time"

	"github.com/berthd/berth/shim/api"
	"github.com/berthd/berth/shim/keeper/pidfd"
	"github.com/berthd/berth/shim/keeper/procstat"
)

// This process is a subreaper: when a shim dies that it has started, what that shim had
// started are its children. It waits for the containers' first processes and tells the
// successor how they have ended, and takes away the others. Of a shim that a former daemon
// has started the host's init is the heir; then the kernel tells the successor, from Linux
// 6.15 on, and before that nobody can.

// mind waits for the first processes of a dead shim's containers.
func (s *Shims) mind(p *process, infos []*api.TaskInfo) {
	for _, info := range infos {
		if info.Status == api.Status_EXITED || procstat.Read(int(info.Pid)).Parent != os.Getpid() {
			continue
		}
		h, err := pidfd.Open(int(info.Pid)) // our child, which nobody else waits for
		if err != nil {
			continue
		}
		s.setHeir(int(info.Pid), true)
		s.work.Go(func() {
			defer h.Close()
			defer s.setHeir(int(info.Pid), false)
			defer context.AfterFunc(s.ctx, func() { h.Close() })()
			h.WaitEnd()
			if s.ctx.Err() != nil {
				return
			}
			if ws, err := h.Wait(0); err == nil {
				p.escrow.tell(info.Id, uint32(ws))
			}
		})
	}
	s.orphans.Do(func() { s.work.Go(s.reapOrphans) })
}

// setHeir notes a process that somebody waits for.
func (s *Shims) setHeir(pid int, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if on {
		s.heirs[pid] = true
	} else {
		delete(s.heirs, pid)
	}
}

// reapDelay is how long an orphan may stay a zombie.
const reapDelay = 200 * time.Millisecond

// reapOrphans takes away what dies of what dead shims have left, until Close.
func (s *Shims) reapOrphans() {
	died := make(chan os.Signal, 1)
	signal.Notify(died, sigchld)
	defer signal.Stop(died)
	session := procstat.Read(os.Getpid()).Session
	for s.pause(reapDelay) == nil {
		for _, pid := range procstat.Children() {
			s.mu.Lock()
			awaited := s.heirs[pid]
			s.mu.Unlock()
			if !awaited && isOrphan(pid, session) {
				procstat.Reap(pid)
			}
		}
		select {
		case <-died:
		case <-s.ctx.Done():
		}
	}
}

// isOrphan tells a dead process that a shim has left from our own children, which are in our session. A
// shim leads its own, and what it starts is in that or in one of its own. (Nobody misses the end of
// a shim that is waited for here: it is noticed by its connection. Cgroups do not tell: in
// version 1 a dead process shows the root.) One that stayed would keep its container's PID
// namespace from ending (pid_namespaces(7)).
func isOrphan(pid, session int) bool {
	st := procstat.Read(pid)
	return st.IsZombie() && st.Session != session
}
