package keeper

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/berthd/berth/shim/keeper/oomevent"
	"github.com/berthd/berth/shim/keeper/procstat"
)

// oomKilled tells whether want of memory has ended the task: the kernel's counter
// of such kills in its cgroup rose while it lived, and its init was killed by
// somebody else than us, or exited with 137 as a shell does whose command was
// killed. A SIGKILL of ours is no such end, nor is one without a kill counted, nor the
// end of a command beside it (killedBeside).
//
// Where the kernel does not count (cgroup v1 before Linux 4.13), nothing is.
func (t *task) oomKilled(code int32, bySignal bool) bool {
	if code != 128+int32(sigkill) {
		return false
	}
	t.mu.Lock()
	ours := bySignal && t.killed
	before, above := t.oomBefore, t.oomAbove
	t.mu.Unlock()
	if ours {
		return false
	}
	kills, there := t.cg.lastOOMKills()
	switch {
	case there || kills > before:
		return kills > before
	case t.oomNotes != nil:
		return t.oomNotes.noted()
	}
	return t.cg.oomKillsAbove() > above
}

// oomNotes are the kernel's notices that a cgroup of v1, or one above it, ran out of
// memory, and one more that the cgroup was removed. They are there when the counter is
// not any more: systemd removes that of a scope when the last process has ended.
type oomNotes struct{ event oomevent.Counter }

// removalLimit is how long the kernel may take to give the notice that a cgroup was
// removed.
const removalLimit = 100 * time.Millisecond

// noteOOM has the kernel give notices of a scope's cgroup on v1; nil for others, whose
// counters stay, and where the kernel cannot.
func (g cgroup) noteOOM() *oomNotes {
	if g.controller == "" || g.memory == "" || !strings.HasSuffix(g.memory, ".scope") {
		return nil
	}
	event, err := oomevent.Watch(g.memory)
	if err != nil {
		return nil
	}
	return &oomNotes{event}
}

// noted tells whether there was a notice of want of memory; the cgroup is gone. A
// neighbour's may be taken for the container's, as by oomKillsAbove.
func (o *oomNotes) noted() bool {
	sum := uint64(0)
	for end := time.Now().Add(removalLimit); sum < 2 && time.Now().Before(end); {
		n, ok := o.event.Wait(time.Until(end))
		if !ok {
			break
		}
		sum += n
	}
	return sum > 1
}

func (o *oomNotes) close() {
	if o != nil {
		o.event.Close()
	}
}

// killedBeside is told how a command beside the init has ended, and what the counter
// was when it began. A kill that was this command's is not the init's end, and no kill
// is two commands'. When the init ends, the kernel kills its commands: then the kill
// was the init's.
func (t *task) killedBeside(code int32, before uint64) {
	kills := t.cg.oomKills()
	if code != 128+int32(sigkill) || kills <= before || procstat.Read(t.snapshot().pid).IsExiting() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.oomBefore < kills {
		t.oomBefore++
		t.oomAbove++
	}
}

// signalInitLocked sends sig to the init. The caller holds t.mu. The init may have
// been killed before, and not waited for yet: then a SIGKILL of ours was not it.
func (t *task) signalInitLocked(sig int) error {
	ours := sig == sigkill && !t.pidfd.HasEnded()
	err := t.pidfd.Signal(sig)
	if ours && err == nil {
		t.killed = true
	}
	return err
}

// oomKills counts the processes that the kernel has killed in g and below for want
// of memory, whoever's limit it was: cgroup v1 counts a kill where the process was,
// v2 there and in all cgroups above. It is 0 when the cgroup does not say.
func (g cgroup) oomKills() uint64 {
	if g.memory == "" {
		return 0
	}
	if g.controller == "" {
		return oomKillsIn(filepath.Join(g.memory, "memory.events"))
	}
	var sum uint64
	_ = filepath.WalkDir(g.memory, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // it has just been removed
		}
		if d.IsDir() {
			sum += oomKillsIn(filepath.Join(path, "memory.oom_control"))
		}
		return nil
	})
	return sum
}

// lastOOMKills is oomKills and whether the counter is there. systemd removes that of a scope
// when the last process has ended, before somebody looks or while: one reading tells both.
func (g cgroup) lastOOMKills() (n uint64, there bool) {
	if g.memory == "" {
		return 0, true
	}
	if g.controller != "" {
		n = g.oomKills()
		_, err := os.Stat(g.memory)
		return n, err == nil
	}
	data, err := os.ReadFile(filepath.Join(g.memory, "memory.events"))
	return oomKillsOf(data), !gone(err)
}

// oomKillsAbove is what the cgroup above, the pod's, has counted of g and its
// neighbours, and keeps when g is removed. It is 0 on cgroup v1, which does not count so.
// A neighbour's kill may be taken for one of g, when g was removed and its init killed
// by somebody else than us and the kernel.
func (g cgroup) oomKillsAbove() uint64 {
	if g.controller != "" || g.memory == "" {
		return 0
	}
	return oomKillsIn(filepath.Join(filepath.Dir(g.memory), "memory.events"))
}

// oomKillsIn reads one counter.
func oomKillsIn(file string) uint64 {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	return oomKillsOf(data)
}

func oomKillsOf(data []byte) uint64 {
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}
