package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/test/leaks"
	"github.com/berthd/berth/test/node"
)

// A suite is a world with one node, whose programs have crash points.
type suite struct {
	world  *node.World
	node   *node.Node
	bin    string // the programs
	mark   string // there once somebody was killed
	logs   string
	parent string // the pods' cgroup
	before leaks.Snapshot
	open   descriptors // of a node that is empty after a life
}

// open builds the programs and a node; the daemon does not run. extra is added to its settings,
// and prepare, unless nil, may change the world before.
func open(t *testing.T, extra string, prepare func(*suite)) *suite {
	t.Helper()
	if testing.Short() {
		t.Skip("long, and needs root")
	}
	clean := context.WithoutCancel(t.Context())
	w, err := node.NewWorld(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(clean); err != nil {
			t.Error(err)
		}
	})
	s := &suite{world: w, bin: filepath.Join(w.Dir, "bin"), mark: filepath.Join(w.Dir, "killed"), logs: filepath.Join(w.Dir, "logs")}
	s.build(t)
	if prepare != nil {
		prepare(s)
	}
	t.Setenv("BERTH_BIN", s.bin)
	if s.node, err = w.Berth("berth", extra+node.CgroupDriver()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.disarm(t)
		if t.Failed() {
			t.Logf("end of berthd's log:\n%s", s.node.Tail(30))
		}
		if err := s.node.Close(); err != nil {
			t.Error(err)
		}
	})
	s.parent = node.MakePodCgroup(t, "crash").Parent
	return s
}

// build takes the programs with crash points into a folder of the suite's own, where their
// orders are.
func (s *suite) build(t *testing.T) {
	t.Helper()
	built := withPoints(t, s.world.Repo)
	if err := os.MkdirAll(s.bin, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, s.world.Repo, "", "cp", filepath.Join(built, "berthd"), filepath.Join(built, "berth-shim"), s.bin)
}

// withPoints builds berthd and berth-shim with crash points, as the Makefile does without
// them, and returns the folder that they are in.
func withPoints(t *testing.T, repo string) string {
	t.Helper()
	built := filepath.Join(repo, ".cache", "crash", "bin")
	if err := os.MkdirAll(built, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, repo, "CGO_ENABLED=0", "go", "build", "-trimpath", "-buildvcs=false", "-tags", "crashpoints", "-o", built+"/", "./cmd/berthd")
	run(t, repo, "CGO_ENABLED=1", "go", "build", "-trimpath", "-buildvcs=false", "-tags", "seccomp netgo osusergo crashpoints",
		"-ldflags", `-linkmode external -extldflags "-static"`, "-o", built+"/", "./cmd/berth-shim")
	return built
}

// run runs a program in dir.
func run(t *testing.T, dir, env string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// arm gives the programs that are started from now on their orders.
func (s *suite) arm(t *testing.T, o orders) {
	t.Helper()
	o.Mark = s.mark
	data, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(s.ordersFile()+".new", data, 0o600), os.Rename(s.ordersFile()+".new", s.ordersFile())); err != nil {
		t.Fatal(err)
	}
}

func (s *suite) disarm(t *testing.T) {
	t.Helper()
	for _, f := range []string{s.ordersFile(), s.mark} {
		if err := os.Remove(f); err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
	}
}

func (s *suite) ordersFile() string { return filepath.Join(s.bin, "crashpoints") }

// killed tells whether the orders were carried out.
func (s *suite) killed() bool {
	_, err := os.Stat(s.mark)
	return err == nil
}

// watched are the folders of which each file counts.
func (s *suite) watched() []string {
	return []string{s.node.Root, s.node.State, filepath.Join(s.world.Dir, "cni")}
}

// note remembers what is on the machine.
func (s *suite) note(t *testing.T) {
	t.Helper()
	var err error
	if s.before, err = leaks.Take(t.Context(), s.watched()...); err != nil {
		t.Fatal(err)
	}
}

// asBefore expects the machine as it was, once the daemon has stopped.
func (s *suite) asBefore(ctx context.Context) error {
	left, err := leaks.Check(ctx, s.before, node.Patience(10*time.Second), s.theirs, s.watched()...)
	if err != nil || len(left) == 0 {
		return err
	}
	return fmt.Errorf("left behind:\n\t%s", strings.Join(left, "\n\t"))
}

// lastAddress is host-local's note of where it goes on: no address.
var lastAddress = regexp.MustCompile(`/last_reserved_ip\.\d+$`)

// theirs tells what others have on the machine: this process has its own interfaces, rules
// and mounts, and cgroups have the pods' parent in their name.
func (s *suite) theirs(line string) bool {
	if strings.HasPrefix(line, "cgroup: ") || strings.HasPrefix(line, "gone cgroup: ") {
		return !strings.Contains(line, s.parent) && !strings.Contains(line, "/berth.slice")
	}
	return lastAddress.MatchString(line)
}

// descriptors are those that a process has open, by what they are.
type descriptors map[string]int

// openOf reads a process's.
func openOf(pid int) (descriptors, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	d := descriptors{}
	for _, n := range names {
		to, err := os.Readlink(filepath.Join(dir, n.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		kind, _, _ := strings.Cut(to, ":[")
		d[anyID.ReplaceAllString(kind, "*")]++
	}
	return d, nil
}

var anyID = regexp.MustCompile(`[0-9a-f]{12,}`)

// fewDescriptors expects that the daemon has no more open than after a life that nobody
// disturbed.
func (s *suite) fewDescriptors(ctx context.Context) error {
	for end := time.Now().Add(node.Patience(5 * time.Second)); ; {
		now, err := openOf(s.node.PID())
		if err != nil {
			return err
		}
		var more []string
		for kind, n := range now {
			if n > s.open[kind] {
				more = append(more, fmt.Sprintf("%d instead of %d: %s", n, s.open[kind], kind))
			}
		}
		if len(more) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("descriptors left open:\n\t%s", strings.Join(more, "\n\t"))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
