package keeper

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/berthd/berth/shim/keeper/container"
	"github.com/berthd/berth/shim/keeper/procstat"
)

// A nursery tells this process's children apart. Most have somebody who waits
// for them. The others are orphans: processes of containers without a PID
// namespace of their own whose parent has died. The kernel gives them to us, the
// subreaper, and the nursery reaps them.
//
// While a runtime starts a process there are children that only it knows of, so
// orphans are reaped when no start is under way.
type nursery struct {
	starts sync.RWMutex // read-locked by a start, locked to reap

	mu    sync.Mutex
	known map[int]bool // children somebody waits for
}

func newNursery() *nursery { return &nursery{known: map[int]bool{}} }

// start runs fn, which may make children of its own and wait for them. The one
// it returns stays known until done.
func (n *nursery) start(fn func() (container.Process, error)) (container.Process, error) {
	n.starts.RLock()
	defer n.starts.RUnlock()
	p, err := fn()
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.known[p.Pid()] = true
	n.mu.Unlock()
	return p, nil
}

// expect makes a process known that a predecessor started; it need not be our child.
func (n *nursery) expect(pid int) {
	n.mu.Lock()
	n.known[pid] = true
	n.mu.Unlock()
}

// wait runs fn, which may make children and waits for all of them.
func (n *nursery) wait(fn func() error) error {
	n.starts.RLock()
	defer n.starts.RUnlock()
	return fn()
}

// done says that pid has been waited for.
func (n *nursery) done(pid int) {
	n.mu.Lock()
	delete(n.known, pid)
	n.mu.Unlock()
}

// reapDelay is how long an orphan may stay a zombie. Within it all the children
// that die in a start have been waited for.
const reapDelay = 200 * time.Millisecond

// run reaps orphans until ctx ends. died is told of every child that dies.
func (n *nursery) run(ctx context.Context, died <-chan os.Signal) {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	for {
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-died:
			timer.Reset(reapDelay)
		case <-timer.C:
			if hasZombie() && !n.reap() {
				timer.Reset(reapDelay)
			}
		}
	}
}

// reap reaps the orphans there are. It reports false when it has to be tried
// again. It never waits: a start that hangs must not stop the others.
func (n *nursery) reap() bool {
	if !n.starts.TryLock() {
		return false
	}
	defer n.starts.Unlock()
	for _, pid := range procstat.Children() {
		n.mu.Lock()
		known := n.known[pid]
		n.mu.Unlock()
		if !known && procstat.Read(pid).IsZombie() {
			procstat.Reap(pid)
		}
	}
	return true
}
