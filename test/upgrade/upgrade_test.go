package upgrade

import (
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/berthd/berth/test/node"
)

// TestPrevious goes from the previous release to this one and back, twice. Shims of the one
// serve berthd of the other.
func TestPrevious(t *testing.T) {
	var old release
	s := open(t, "", func(w *node.World) release {
		old = released(t, w.Repo, previousCommit(t, w.Repo))
		return old
	})
	now := current(t, s.World.Repo, "this")
	lives := s.pod(t, "of-the-previous")
	shims := s.programs(t)
	for i, to := range []release{now, old, now} {
		s.install(t, to)
		s.restart(t)
		s.undisturbed(t, lives)
		if to == now {
			s.settled(t)
		}
		lives = append(lives, s.pod(t, "made-by-"+[]string{"this", "the-previous", "this-again"}[i])...)
		s.undisturbed(t, lives)
	}
	for pid, was := range shims { // it may be of a release that can be upgraded
		is, there := s.programs(t)[pid]
		if !there || !os.SameFile(is, was) && !os.SameFile(is, s.installed(t)) {
			t.Errorf("shim %d has gone, or runs something else", pid)
		}
	}
	s.end(t, lives)
	s.Done(t)
}

// escrowed is the one commit whose shims hand out their descriptors and cannot execute another
// program. Its log loses what a shim that is killed has just read.
const escrowed = "0e05195247cd6068768aa6507df0c9c949b5b7f4"

// TestReplaced has a shim killed that can be replaced and not upgraded.
func TestReplaced(t *testing.T) {
	s := open(t, "", func(w *node.World) release { return released(t, w.Repo, escrowed) })
	lives := s.pod(t, "of-another")
	for _, l := range lives {
		l.lossy = true
	}
	before := pidsOf(s.programs(t))
	s.install(t, current(t, s.World.Repo, "this"))
	s.restart(t)
	eventually(t, "the shim is replaced", func() bool { return s.isCurrent(t) && len(s.programs(t)) == 1 })
	if after := pidsOf(s.programs(t)); slices.Equal(before, after) {
		t.Errorf("shims are %v, and were", after)
	}
	s.undisturbed(t, lives)
	s.end(t, lives)
	s.Done(t)
}

// settled waits until each shim runs what is installed, or berthd has said why not.
func (s *suite) settled(t *testing.T) {
	t.Helper()
	eventually(t, "shims are upgraded", func() bool {
		return s.isCurrent(t) || strings.Contains(s.Node.Tail(100), "A shim is not upgraded")
	})
}

func (s *suite) isCurrent(t *testing.T) bool {
	t.Helper()
	want := s.installed(t)
	for _, is := range s.programs(t) {
		if !os.SameFile(is, want) {
			return false
		}
	}
	return true
}

// TestExec goes from this release to its like and back, at berthd's start and by SIGHUP:
// shims execute the other program, and stay the processes that they are.
func TestExec(t *testing.T) {
	for name, extra := range map[string]string{"shared shims": "", "a shim for each pod": "pods_per_process = 1\n"} {
		t.Run(name, func(t *testing.T) { execute(t, extra) })
	}
}

func execute(t *testing.T, extra string) {
	var here, next release
	s := open(t, extra, func(w *node.World) release {
		here, next = current(t, w.Repo, "this"), current(t, w.Repo, "next")
		return here
	})
	lives := append(s.pod(t, "one"), s.pod(t, "two")...)
	before := pidsOf(s.programs(t))
	if want := 1 + strings.Count(extra, "= 1"); len(before) < want {
		t.Fatalf("%d shims, want %d", len(before), want)
	}
	for _, how := range []struct {
		to   release
		tell func(*testing.T)
	}{{next, s.restart}, {here, s.hangUp}, {next, s.hangUp}, {here, s.restart}} {
		s.install(t, how.to)
		how.tell(t)
		s.undisturbed(t, lives)
		eventually(t, "shims are upgraded", func() bool { return s.isCurrent(t) })
		s.undisturbed(t, lives)
		if after := pidsOf(s.programs(t)); !slices.Equal(before, after) {
			t.Errorf("shims are %v, were %v", after, before)
		}
	}
	s.Node.Kill()
	if err := s.Node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.undisturbed(t, lives)
	s.end(t, lives)
	s.Done(t)
}

// hangUp tells berthd to look again.
func (s *suite) hangUp(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(s.Node.PID(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

func pidsOf(programs map[int]os.FileInfo) (pids []int) {
	for pid := range programs {
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	return pids
}
