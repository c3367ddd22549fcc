package shim

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/berthd/berth/crashpoint"
	"github.com/berthd/berth/shim/api"
	taskapi "github.com/berthd/berth/shim/api/task"
	"github.com/berthd/berth/shim/keeper/pidfd"
	"github.com/berthd/berth/shim/keeper/procstat"
	"github.com/containerd/ttrpc"
	"k8s.io/klog/v2"
)

const (
	// busyAgain is when a shim is asked again that had something under way, failedAgain when
	// it could not execute the program.
	busyAgain, failedAgain = 5 * time.Second, time.Minute
	// upgradeLimit is how long a shim may take to say that it does not execute the program.
	upgradeLimit = 30 * time.Second
	// programLimit is how long a program may take to say what it is.
	programLimit = 10 * time.Second
)

// errIncompatible: a shim is of a release that this one does not speak to.
var errIncompatible = errors.New("not of a release that this berthd speaks to")

// hello asks a shim for its tasks and for what it is, over that connection.
func (p *process) hello(ctx context.Context, c *ttrpc.Client) ([]*api.TaskInfo, error) {
	resp, err := api.NewKeeperClient(c).List(ctx, &api.ListRequest{})
	if err != nil {
		return nil, fromWire(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.info, p.refusal = resp.Shim, nil
	if _, err := api.Meet(resp.Shim.Range()); err != nil {
		p.refusal = fmt.Errorf("%w: %w", errIncompatible, err)
		return nil, p.refusal
	}
	return resp.Tasks, nil
}

// Upgrade has every shim that runs another program than Options.Binary execute that one over
// itself: its process stays, and containers never notice. It happens in the background, one
// shim after the other, as soon as nobody has a command or an attachment under way there.
// Call it again when there may be another program on disk.
//
// A shim of a release that cannot do so is killed, and its successor goes on, if nothing of
// its containers is lost by that. Otherwise it stays as it is until its last pod ends.
func (s *Shims) Upgrade() {
	s.upgrades.Do(func() { s.work.Go(s.keepCurrent) })
	s.lookForUpgrades()
}

func (s *Shims) lookForUpgrades() {
	select {
	case s.look <- struct{}{}:
	default: // it is going to
	}
}

// keepCurrent upgrades shims until Close.
func (s *Shims) keepCurrent() {
	for {
		var again <-chan time.Time
		if d := s.upgradeAll(); d > 0 {
			again = time.After(d)
		}
		select {
		case <-s.look:
		case <-again:
		case <-s.ctx.Done():
			return
		}
	}
}

// A program is what is on disk for shims to execute.
type program struct {
	file os.FileInfo
	api.Program
	tellsExits bool // the kernel tells how processes have ended that are not ours
}

// readProgram looks at Options.Binary and asks it what it is. One of a release that says
// nothing speaks protocol 1.
func (s *Shims) readProgram() (program, error) {
	var p program
	var err error
	if p.file, err = os.Stat(s.o.Binary); err != nil {
		return p, err
	}
	ctx, cancel := context.WithTimeout(s.ctx, programLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.o.Binary, "version", "--json")
	cmd.Dir = "/"
	child := watchChild(cmd)
	out, err := cmd.Output()
	h := child()
	defer h.Close()
	if err != nil {
		return p, fmt.Errorf("%s does not run: %w", s.o.Binary, err)
	}
	_, err = h.Wait(0)
	p.tellsExits = err == nil
	if json.Unmarshal(out, &p.Program) != nil {
		p.Program = api.Program{Protocol: 1, OldestProtocol: 1}
	}
	return p, nil
}

// upgradeAll upgrades the shims that are to be, and says when to try it again; 0: never.
func (s *Shims) upgradeAll() (again time.Duration) {
	read := sync.OnceValues(s.readProgram) // which is not needed most times
	for _, p := range s.processes() {
		if p.isDead() || p.isSilent() || s.ctx.Err() != nil {
			continue
		}
		pid, err := s.pidOf(p)
		if err != nil || s.isCurrent(pid) {
			p.wait("", false, false)
			continue
		}
		to, err := read()
		why, busy, old := "", false, false
		if err == nil {
			why, old = s.hinders(p, pid, to)
		}
		if err == nil && why == "" {
			why, err = s.upgrade(p, pid, to)
			busy = why != ""
		}
		switch {
		case err != nil:
			why, again = err.Error(), cmp.Or(again, failedAgain)
		case busy:
			again = busyAgain
		}
		p.wait(why, busy, old)
	}
	return again
}

// processes are the shims, by their IDs.
func (s *Shims) processes() []*process {
	s.mu.Lock()
	defer s.mu.Unlock()
	procs := slices.Collect(maps.Values(s.procs))
	slices.SortFunc(procs, func(a, b *process) int { return cmp.Compare(a.id, b.id) })
	return procs
}

// pidOf is a shim's process. Those of protocol 1 tell it by another call.
func (s *Shims) pidOf(p *process) (int, error) {
	p.mu.Lock()
	info := p.info
	p.mu.Unlock()
	if info.GetPid() != 0 {
		return int(info.GetPid()), nil
	}
	var resp *taskapi.ConnectResponse
	ctx, cancel := context.WithTimeout(s.ctx, listLimit)
	defer cancel()
	err := p.callAs(ctx, nil, func(c *ttrpc.Client) (err error) {
		resp, err = taskapi.NewTaskClient(c).Connect(ctx, &taskapi.ConnectRequest{})
		return err
	})
	return int(resp.GetShimPid()), err
}

// isCurrent reports whether a process executes the program on disk, or nothing can be said
// of either.
func (s *Shims) isCurrent(pid int) bool {
	runs, err := os.Stat(exeOf(pid))
	if err != nil {
		return true
	}
	file, err := os.Stat(s.o.Binary)
	return err != nil || os.SameFile(runs, file)
}

func exeOf(pid int) string { return fmt.Sprintf("/proc/%d/exe", pid) }

// wait notes why a shim's program is not the one on disk, and tells it once.
func (p *process) wait(why string, busy, old bool) {
	p.mu.Lock()
	known := p.waits == why
	p.waits, p.busy, p.old = why, busy, old
	p.mu.Unlock()
	if !known && why != "" && p.shims.ctx.Err() == nil {
		klog.InfoS("A shim is not upgraded", "shim", p.id, "because", why)
	}
}

// speaks is the newest protocol that a shim speaks.
func (p *process) speaks() uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, newest := p.info.Range()
	return newest
}

// hinders says why a shim never executes that program, "" when it may, and whether that is
// because it is of too old a release.
func (s *Shims) hinders(p *process, pid int, to program) (why string, tooOld bool) {
	s.mu.Lock()
	doubted := s.doubted
	s.mu.Unlock()
	old := p.speaks() < upgradeSince
	switch {
	case doubted != nil && os.SameFile(doubted, to.file):
		return s.broken(), false
	case to.Protocol < upgradeSince:
		return s.o.Binary + " is of a release that cannot take over from a running shim: it serves the pods to come", false
	case old && !p.escrow.isOpen():
		return "it is of a release that can neither be upgraded nor replaced: it stays as it is until its last pod ends, and gets no more", true
	case old && !to.tellsExits && procstat.Read(pid).Parent != os.Getpid():
		return "it is of a release that cannot be upgraded, and were it replaced, this kernel (before Linux 6.15) would not tell how its containers end: it stays as it is until its last pod ends, and gets no more", true
	}
	return "", false
}

// upgrade has one shim execute the program, or replaces it. waitsFor says what has to end
// first, err why it is not to be.
func (s *Shims) upgrade(p *process, pid int, to program) (waitsFor string, err error) {
	old := p.speaks() < upgradeSince
	f, err := openFormer(pid, to.file)
	if err != nil {
		return "", err
	}
	f.tried = !old // by the shim itself
	c, waitsFor := p.hold(s.ctx)
	if waitsFor != "" {
		f.close()
		return waitsFor, nil
	}
	crashpoint.At("upgrade", p.dir)
	p.setFormer(f)
	if old {
		err = endProcess(pid)
	} else {
		waitsFor, err = s.askUpgrade(c)
	}
	if err == nil && waitsFor == "" || errors.Is(err, errLost) {
		s.lose(p, c)
		crashpoint.At("executed", p.dir)
		s.letGo(p)
		crashpoint.At("upgraded", p.dir)
		return "", s.judge(p, pid, to)
	}
	s.letGo(p)
	p.setFormer(nil)
	return waitsFor, err
}

// upgradeSince is the protocol that has the call Upgrade.
const upgradeSince = 2

// askUpgrade asks the shim. errLost says that it has done it, or died.
func (s *Shims) askUpgrade(c *ttrpc.Client) (waitsFor string, err error) {
	ctx, cancel := context.WithTimeout(s.ctx, upgradeLimit)
	defer cancel()
	resp, err := api.NewKeeperClient(c).Upgrade(ctx, &api.UpgradeRequest{Program: s.o.Binary})
	return resp.GetWaitsFor(), fromWire(err)
}

// endProcess kills a shim and waits until it is gone.
func endProcess(pid int) error {
	h, err := pidfd.Open(pid)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := h.Signal(sigkill); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	h.WaitEnd()
	return nil
}

// judge looks at who goes on with a shim's containers. The former program is of no use any
// more if it is the new one.
func (s *Shims) judge(p *process, pid int, to program) error {
	p.mu.Lock()
	info := p.info
	p.mu.Unlock()
	runs, err := os.Stat(exeOf(int(info.GetPid())))
	switch {
	case s.ctx.Err() != nil || p.isDead():
		return nil // which is told elsewhere
	case err == nil && os.SameFile(runs, to.file):
		klog.InfoS("A shim was upgraded", "shim", p.id, "version", to.Version, "pid", info.GetPid(), "sameProcess", int(info.GetPid()) == pid)
		p.setFormer(nil)
		return nil
	}
	s.mu.Lock()
	s.doubted = to.file
	s.mu.Unlock()
	return errors.New(s.broken())
}

func (s *Shims) broken() string {
	return s.o.Binary + " ended at once when a shim executed it, and the shim goes on with the program that it had: put another one in its place"
}
