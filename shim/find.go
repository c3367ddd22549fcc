package shim

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berthd/berth/shim/api"
	taskapi "github.com/berthd/berth/shim/api/task"
	"github.com/containerd/ttrpc"
	"k8s.io/klog/v2"
)

const (
	// findLimit is how long one shim is given to answer at Open. It is short: nothing of the
	// node is served before, and a shim that answers later is met then. Until then its
	// containers are what their records say.
	findLimit = 250 * time.Millisecond
	// findGrace is what the last half of them is given at the least, when the first has
	// answered; and as long as that took.
	findGrace = 25 * time.Millisecond
	// listLimit is how long one shim is given to answer in Tasks.
	listLimit = 10 * time.Second
	// askAgain is the pause after an attempt that failed without saying that the
	// shim is dead.
	askAgain = time.Second
)

// findAll finds the shims that were there before, each in a folder of dirs.
func (s *Shims) findAll(ctx context.Context, dirs []os.DirEntry) {
	dirs = slices.DeleteFunc(dirs, func(d os.DirEntry) bool {
		alien := !d.IsDir() || !isID(d.Name())
		if alien {
			klog.InfoS("No shim's folder; it is left alone", "path", filepath.Join(api.ShimsDir(s.o.State), d.Name()))
		}
		return alien
	})
	limited, cancel := context.WithTimeout(ctx, findLimit)
	defer cancel()
	var wg sync.WaitGroup
	var found atomic.Int64
	begin := time.Now()
	for _, d := range dirs {
		wg.Go(func() {
			s.find(ctx, limited, d.Name())
			if int(found.Add(1)) == (len(dirs)+1)/2 {
				time.AfterFunc(max(time.Since(begin), findGrace), cancel)
			}
		})
	}
	wg.Wait()
}

// find connects to a shim that was there before, or takes stock of what it left. It is
// asked until limited ends.
func (s *Shims) find(ctx, limited context.Context, shimID string) {
	p := newProcess(s, shimID)
	p.spawned, _ = api.ReadSpawned(p.dir) // without it, its process is known when it answers
	s.mu.Lock()
	s.procs[shimID] = p
	s.mu.Unlock()
	infos, err := s.inquire(limited, p)
	close(p.ready)
	switch {
	case err == nil:
		s.meet(p, infos)
		s.learn(p)
	case isDeath(err):
		s.inherit(p, err)
	case ctx.Err() != nil: // that says nothing of the shim
		p.close()
	default:
		n, rerr := s.enterRecords(p)
		if rerr != nil {
			klog.ErrorS(rerr, "Records of a shim", "shim", p.id)
		}
		klog.ErrorS(err, "A shim cannot be asked", "shim", p.id, "containers", n)
		s.work.Go(func() { s.pursue(p) })
	}
}

// inquire asks a shim for its tasks, over a new connection if there is none.
func (s *Shims) inquire(ctx context.Context, p *process) ([]*api.TaskInfo, error) {
	c, _, _ := p.connection(nil)
	if c == nil {
		var err error
		if c, err = s.connect(ctx, p); err != nil {
			return nil, err
		}
	}
	infos, err := p.hello(ctx, c)
	if errors.Is(err, errIncompatible) {
		p.drop()
	}
	return infos, err
}

// isDeath tells the errors that only a dead shim gives from a slow one's and from
// our own trouble.
func isDeath(err error) bool { return isRefusal(err) || errors.Is(err, ErrUnavailable) }

// pursue asks a shim that has not answered until it does, or is dead.
func (s *Shims) pursue(p *process) {
	for {
		infos, err := s.inquire(s.ctx, p) // for as long as it takes
		switch {
		case s.ctx.Err() != nil:
			p.close()
			return
		case err == nil:
			klog.InfoS("A shim answers again", "shim", p.id)
			s.meet(p, infos)
			return
		case isDeath(err):
			s.inherit(p, err)
			return
		}
		select {
		case <-time.After(askAgain):
		case <-s.ctx.Done():
		}
	}
}

// meet enters the containers that a shim says it has when it answers for the
// first time, and drops those that it has on record only: their creation ended
// with the connection of who asked for it.
func (s *Shims) meet(p *process, infos []*api.TaskInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	has := map[string]bool{}
	for _, info := range infos {
		has[info.Id] = true
		if p.deleted[info.Id] {
			s.deleteLateLocked(p, info.Id)
			continue
		}
		e := s.tasks[info.Id]
		if e == nil && !p.records(info.Id) { // it was taken away without the shim, by a former daemon
			s.deleteLateLocked(p, info.Id)
			continue
		}
		if e == nil {
			e = newEntry(info.Id, info.PodId, info.Bundle, p)
			s.enterLocked(e)
		}
		if e.p == p {
			s.watchLocked(e)
		}
	}
	for id, e := range s.tasks {
		if e.p == p && e.recorded && !has[id] {
			delete(s.tasks, id)
			p.countOut(e.podID)
			s.work.Go(func() {
				e.endWith(ErrNotFound)
				s.retire(p)
			})
		}
	}
	p.deleted = nil
	s.hasAnswered(p)
	s.lookForUpgrades()
	if !p.escrow.isOpen() {
		s.work.Go(func() { s.keep(s.ctx, p) })
	}
}

// records reports whether a container's record is there. The shim writes it first and removes it last.
func (p *process) records(id string) bool {
	_, err := os.Lstat(api.TaskPath(p.dir, id))
	return !errors.Is(err, os.ErrNotExist)
}

// deleteLateLocked has a shim forget a container that was taken away without it.
func (s *Shims) deleteLateLocked(p *process, id string) {
	p.late++
	s.work.Go(func() {
		defer s.retire(p)
		defer func() {
			s.mu.Lock()
			p.late--
			s.mu.Unlock()
		}()
		for try := 1; ; try++ {
			err := p.call(s.ctx, func(c *ttrpc.Client) error {
				_, err := taskapi.NewTaskClient(c).Delete(s.ctx, &taskapi.DeleteRequest{Id: id})
				return err
			})
			if err == nil || errors.Is(err, ErrNotFound) || isDeath(err) || s.ctx.Err() != nil {
				return
			}
			if try == 1 {
				klog.ErrorS(err, "A container that its shim still has; it is told again until it has not", "shim", p.id, "container", id)
			}
			if s.pause(askAgain) != nil {
				return
			}
		}
	})
}

// adoptDead enters the containers that a dead shim has on record, and sweeps its
// folder if there is none.
func (s *Shims) adoptDead(p *process, cause error) {
	p.close()
	p.mu.Lock()
	p.conn = nil
	p.mu.Unlock()
	close(p.answered)
	n, err := s.enterRecords(p)
	if err != nil {
		klog.ErrorS(err, "Records of a dead shim", "shim", p.id)
		return
	}
	if n > 0 {
		klog.ErrorS(cause, "A shim is dead", "shim", p.id, "containers", n)
	}
	s.sweep(p)
}

// enterRecords enters the containers that a shim has on record, and counts them.
func (s *Shims) enterRecords(p *process) (int, error) {
	records, err := readRecords(p.dir)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range records {
		if s.tasks[r.ID] != nil || p.deleted[r.ID] {
			continue
		}
		e := newEntry(r.ID, r.PodID, r.Bundle, p)
		e.systemd, e.recorded = r.SystemdCgroup, true
		s.enterLocked(e)
	}
	return len(records), nil
}

// readRecords reads which tasks a shim wrote down.
func readRecords(shimDir string) ([]api.TaskRecord, error) {
	files, err := os.ReadDir(api.TaskDir(shimDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var records []api.TaskRecord
	for _, f := range files {
		if filepath.Ext(f.Name()) != ".json" {
			continue
		}
		r, err := api.ReadTask(filepath.Join(api.TaskDir(shimDir), f.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	return records, nil
}
