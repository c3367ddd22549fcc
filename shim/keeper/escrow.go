package keeper

import (
	"errors"
	"os"
	"sync"
	"time"

	"github.com/berthd/berth/shim/api"
	"k8s.io/klog/v2"
)

// escrowLimit is how long the daemon may take to take descriptors. A daemon that does not
// has none, until it asks anew.
const escrowLimit = time.Second

// An escrow hands duplicates of the containers' descriptors to the daemon, when there is
// one that wants them. The zero value has none.
type escrow struct {
	mu   sync.Mutex
	conn *api.SessionConn
}

// keepEscrow serves a daemon that keeps our descriptors, until it goes.
func (k *Keeper) keepEscrow(s *session) error {
	if err := s.conn.Send(api.SessionReply{}); err != nil {
		return nil // it has gone
	}
	k.escrow.begin(s.conn, k.list())
	<-s.gone
	k.escrow.end(s.conn)
	return nil
}

// begin sends all there are, and what comes from now on.
func (e *escrow) begin(conn *api.SessionConn, tasks []*task) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.conn = conn // a former daemon's is of no use any more
	for _, t := range tasks {
		e.putLocked(t)
	}
	e.sendLocked(api.EscrowEvent{Synced: true})
}

func (e *escrow) end(conn *api.SessionConn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conn == conn {
		e.conn = nil
	}
}

// put sends the descriptors of a task that has a process.
func (e *escrow) put(t *task) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.putLocked(t)
}

func (e *escrow) putLocked(t *task) {
	if s := t.snapshot().status; e.conn == nil || s != created && s != running {
		return
	}
	names, files := t.descriptors()
	e.sendLocked(api.EscrowEvent{ID: t.rec.ID, Files: names}, files...)
}

// dropFile has the daemon close one of a container's. It is called before we do.
func (e *escrow) dropFile(id, name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sendLocked(api.EscrowEvent{ID: id, Drop: name})
}

// drop has the daemon close all of a container's.
func (e *escrow) drop(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sendLocked(api.EscrowEvent{ID: id, Gone: true})
}

func (e *escrow) sendLocked(event api.EscrowEvent, files ...*os.File) {
	if e.conn == nil {
		return
	}
	_ = e.conn.Conn().SetWriteDeadline(time.Now().Add(escrowLimit))
	err := e.conn.Send(event, files...)
	if err == nil || errors.Is(err, os.ErrClosed) && len(files) > 0 { // the container has just ended
		return
	}
	klog.ErrorS(err, "The daemon does not take descriptors")
	e.conn.Conn().Close() // which is how it hears of it, if it hears anything
	e.conn = nil
}

// descriptors are what a successor needs to take the task over. They stay the task's.
func (t *task) descriptors() (names []string, files []*os.File) {
	add := func(name string, f *os.File) {
		if f != nil {
			names, files = append(names, name), append(files, f)
		}
	}
	t.mu.Lock()
	add(api.FilePidfd, t.pidfd.File())
	t.mu.Unlock()
	t.io.mu.Lock()
	defer t.io.mu.Unlock()
	add(api.FileStdin, t.io.stdin)
	if t.rec.Terminal {
		add(api.FileTerminal, t.io.master)
		if t.io.ferry != nil {
			add(api.FileFerryIn, t.io.ferry.W)
			add(api.FileFerryOut, t.io.ferry.R)
		}
		return names, files
	}
	for i, name := range [...]string{api.FileStdout, api.FileStderr} {
		if i < len(t.io.outputs) {
			add(name, t.io.outputs[i])
		}
	}
	return names, files
}
