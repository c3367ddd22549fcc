package crash

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	onlyPoint = flag.String("point", "", "only crash points that have this in their name")
	all       = flag.Bool("all", os.Getenv("BERTH_CRASH") == "all", "every crash point, not a sample; so does BERTH_CRASH=all")
	sample    = flag.Int("sample", 2, "how many crash points of each kind, without -all")
)

// lives are the settings that lives are lived with: the first has all its points as crash
// points, the others those that none before them has.
var lives = []struct{ name, extra string }{
	{"default", ""},
	{"overlay", "[snapshot]\ndriver = \"overlay\"\n"},
	{"native", "[snapshot]\ndriver = \"native\"\n"},
}

// TestCrash is the whole of it.
func TestCrash(t *testing.T) {
	seen := &seen{names: map[string]bool{}, sites: map[string]bool{}}
	for _, life := range lives {
		t.Run(life.name, func(t *testing.T) {
			s := open(t, life.extra, nil)
			points := seen.take(s.enumerate(t))
			for _, who := range []string{"daemon", "shim", "both"} {
				t.Run(who, func(t *testing.T) { s.kills(t, points, who) })
			}
		})
	}
	if len(seen.names) > 0 && !t.Failed() {
		seen.all(t)
	}
}

// kills has a life for each of the points.
func (s *suite) kills(t *testing.T, points []point, who string) {
	cases := choose(t, of(points, who))
	begun, missed := time.Now(), 0
	for _, p := range cases {
		if !s.crash(t, p, who == "both") {
			t.Logf("not passed: %v", p)
			if !p.byTime() {
				missed++
			}
		}
	}
	t.Logf("%d crash points in %.0f s, %d of them not passed when it was to be", len(cases), time.Since(begun).Seconds(), missed)
	if missed*20 > len(cases) {
		t.Errorf("%d of %d crash points were not passed again: lives differ too much", missed, len(cases))
	}
}

// byTime reports whether it is by time how often a life passes the point: a container says the more
// the longer it lives. Each life passes it once.
func (p point) byTime() bool { return p.passing > 1 && strings.Contains(p.name, " logs/") }

// seen is what lives have passed.
type seen struct{ names, sites map[string]bool }

// take adds what a life has passed, and returns the points that are new, once for each time
// that they were passed.
func (s *seen) take(all []passed) (points []point) {
	known := map[point]bool{}
	for i, p := range number(all) {
		if !s.names[all[i].Point] && !known[p] {
			points, known[p] = append(points, p), true
		}
	}
	for _, p := range all {
		s.names[p.Point], s.sites[p.Site] = true, true
	}
	return points
}

// has tells whether a function was passed. A closure of one that was inlined into another has
// both their names.
func (s *seen) has(site string) bool {
	if s.sites[site] {
		return true
	}
	slash := strings.LastIndexByte(site, '/') + 1
	dot := slash + strings.IndexByte(site[slash:], '.')
	for have := range s.sites {
		if strings.HasPrefix(have, site[:dot+1]) && strings.HasSuffix(have, site[dot:]) {
			return true
		}
	}
	return false
}

// all expects that every step and every write of the source was passed.
func (s *seen) all(t *testing.T) {
	src, err := readSource("../..")
	if err != nil {
		t.Fatal(err)
	}
	if len(src.steps) == 0 || len(src.sites) == 0 {
		t.Errorf("the source has %d steps and %d functions that write", len(src.steps), len(src.sites))
	}
	for step := range src.steps {
		if !s.names[step] {
			t.Errorf("%s: no life passes this step, so nobody is killed there", step)
		}
	}
	for site := range src.sites {
		exempt := slices.ContainsFunc(elsewhere, func(e struct{ site, why string }) bool { return strings.HasPrefix(site, e.site) })
		if !s.has(site) && !exempt {
			t.Errorf("%s writes for good, and no life passes a crash point there", site)
		}
	}
	for _, e := range elsewhere {
		if s.has(e.site) {
			t.Errorf("%s is passed, and listed as one that is not", e.site)
		}
	}
	t.Logf("%d points; %d steps and %d functions in the source", len(s.names), len(src.steps), len(src.sites))
}

// of are the points at which who is killed. Both are killed at every third of the daemon's,
// while a shim is there.
func of(points []point, who string) (out []point) {
	shim := false
	for i, p := range points {
		own := p.program == "berthd"
		shim = shim || !own
		if who == "daemon" && own || who == "shim" && !own || who == "both" && own && shim && i%3 == 0 {
			out = append(out, p)
		}
	}
	return out
}

// choose takes what the flags say.
func choose(t *testing.T, points []point) []point {
	t.Helper()
	points = slices.DeleteFunc(slices.Clone(points), func(p point) bool { return !strings.Contains(p.String(), *onlyPoint) })
	if *all || *onlyPoint != "" || len(points) <= *sample {
		return points
	}
	seed := os.Getenv("BERTH_CRASH_SEED")
	if seed == "" {
		out, _ := exec.CommandContext(t.Context(), "git", "rev-parse", "HEAD").Output() // a tree without git has one sample
		seed = strings.TrimSpace(string(out))
	}
	h := fnv.New64a()
	h.Write([]byte(seed))
	r := rand.New(rand.NewPCG(h.Sum64(), 0))
	t.Logf("%d of %d crash points; BERTH_CRASH_SEED=%s", *sample, len(points), seed)
	at := r.Perm(len(points))[:*sample]
	slices.Sort(at)
	var chosen []point
	for _, i := range at {
		chosen = append(chosen, points[i])
	}
	return chosen
}

// enumerate lives a life for the machine to be compared with, and one more to write down
// the points that it passes.
func (s *suite) enumerate(t *testing.T) []passed {
	t.Helper()
	s.undisturbed(t)
	s.note(t)
	log := filepath.Join(s.world.Dir, "passed")
	s.arm(t, orders{Log: log})
	s.undisturbed(t)
	s.disarm(t)
	if err := s.asBefore(t.Context()); err != nil {
		t.Fatal(err)
	}
	all, err := readLog(log)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// undisturbed is a life without a kill.
func (s *suite) undisturbed(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	if err := s.node.Start(ctx); err != nil {
		t.Fatal(err)
	}
	l, err := s.begin()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, r := range requests {
		if err := l.try(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	if s.open, err = openOf(s.node.PID()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.nothing(ctx), s.node.Stop()); err != nil {
		t.Fatal(err)
	}
}

// begin is a new life on the node that runs.
func (s *suite) begin() (l *life, err error) {
	if err := os.RemoveAll(s.logs); err != nil {
		return nil, err
	}
	l = newLife(s.logs, s.parent)
	l.node = s
	l.Client, err = s.node.Client()
	return l, err
}

// crash lives a life in which p's program is killed at p, with both the shims as well, and
// tells whether that came to pass.
func (s *suite) crash(t *testing.T, p point, both bool) bool {
	t.Helper()
	s.arm(t, orders{Program: p.program, Point: p.name, Passing: p.passing})
	killed, err := s.disturbed(t.Context(), t, p.program == "berthd", both)
	s.disarm(t)
	if err != nil {
		t.Errorf("killed at %v: %v", p, err)
		s.clear(t)
	}
	return killed
}

// A kill is what is known of the one of a life.
type kill struct {
	daemon, both bool
	done         bool
}

// disturbed is a life with a kill somewhere.
func (s *suite) disturbed(ctx context.Context, t *testing.T, daemon, both bool) (bool, error) {
	k := &kill{daemon: daemon, both: both}
	if err := s.node.Start(ctx); err != nil {
		if !s.killed() {
			return false, err
		}
		if err := s.after(ctx, t, k, nil); err != nil {
			return true, err
		}
	}
	l, err := s.begin()
	if err != nil {
		return false, err
	}
	defer func() { l.Close() }()
	for _, r := range requests {
		if err := s.ask(ctx, t, k, l, r); err != nil {
			return k.done, err
		}
	}
	if err := l.nothing(ctx); err != nil && !s.killed() {
		return k.done, err
	}
	if err := s.fewDescriptors(ctx); err != nil && !s.killed() {
		return k.done, err
	}
	err = s.node.Stop()
	if s.killed() && !k.done { // at its end: the next one finds what there is
		if err := s.after(ctx, t, k, l); err != nil {
			return true, err
		}
		err = errors.Join(l.nothing(ctx), s.node.Stop())
	}
	if err != nil {
		return k.done, err
	}
	return k.done, s.asBefore(ctx)
}

// ask sends a request, and once more when somebody is killed meanwhile.
func (s *suite) ask(ctx context.Context, t *testing.T, k *kill, l *life, r request) error {
	err := l.try(ctx, r)
	if !s.killed() || k.done {
		return err
	}
	if left := s.after(ctx, t, k, l); left != nil {
		return left
	}
	if err == nil {
		return nil
	}
	err = l.try(ctx, r)
	if err != nil && r.has != anEnd && (!k.daemon || k.both) { // its processes went with the shim
		if err := l.revive(ctx, r, err); err != nil {
			return err
		}
		err = l.try(ctx, r)
	}
	if err != nil {
		return fmt.Errorf("once more: %w", err)
	}
	return nil
}

// after follows the kill: the next daemon is started, if it was that which was killed.
func (s *suite) after(ctx context.Context, t *testing.T, k *kill, l *life) error {
	k.done = true
	if !k.daemon {
		return nil
	}
	s.node.Kill() // it is dead, or about to be
	if k.both {
		for _, pid := range running(filepath.Join(s.bin, "berth-shim"), "serve") {
			if err := killPID(pid); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(s.ordersFile()); err != nil {
		return err
	}
	if err := s.node.Start(ctx); err != nil || l == nil {
		return err
	}
	l.Client.Close()
	var err error
	l.Client, err = s.node.Client()
	return err
}

// clear takes away what a life left that failed, so that the next is not blamed for it.
func (s *suite) clear(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	if s.node.PID() == 0 {
		if err := s.node.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	c, err := s.node.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := errors.Join(c.RemoveAll(ctx), s.node.Stop()); err != nil {
		t.Fatal(err)
	}
	if err := s.asBefore(ctx); err != nil {
		t.Logf("and stays, so it is taken to have been there before: %v", err)
		s.note(t)
	}
}
