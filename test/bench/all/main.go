// The all program measures berth beside containerd on one machine, in turns: every figure that
// berth has a target for, how cost grows with the number of pods, where the time of a pod's
// start goes, and critest's own benchmark. Both have the same registry, images and CNI
// configuration (bridge with ipMasq, host-local, portmap); containerd and runc are built from
// their modules. The machine may be shared and noisy: only the ratios are figures.
//
//	make bench
//	make bench BENCH="-rows start,exec -n 10 -busy"
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berthd/berth/test/bench"
)

func main() {
	bench.Main("bench", options, run)
}

// A setting is what the flags say.
type setting struct {
	rows     []string
	grow     []int
	pods, n  int
	restarts int
	pulls    int
	profile  bool
	busy     bool
	calm     time.Duration
	markdown string
}

func options(args []string) (s setting, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	rows := flags.String("rows", strings.Join(partNames(), ","), "what to measure, of these")
	grow := flags.String("grow", "10,50,100,200", "numbers of pods at which it is measured how cost grows")
	flags.IntVar(&s.pods, "pods", 60, "pods that stand while lists, memory and idle CPU are measured")
	flags.IntVar(&s.n, "n", 30, "samples: pods of each runtime one at a time; of all else in proportion")
	flags.IntVar(&s.restarts, "restart", 5, "kills of each daemon; 0: none")
	flags.IntVar(&s.pulls, "pull", 3, "rounds of make bench-pull, minutes each; 0: none")
	flags.DurationVar(&s.calm, "calm", calm, "how long nobody calls before memory and idle CPU are looked at: longer than Go's runtime takes until it collects garbage of itself, unless in a hurry")
	flags.BoolVar(&s.profile, "profile", true, "sort the CPU of each stage, by perf, where it is installed")
	flags.BoolVar(&s.busy, "busy", false, "keep one core busy meanwhile")
	flags.StringVar(&s.markdown, "markdown", "", "document whose part between the markers gets the tables; graphs are put beside it")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	for _, name := range split(*rows) {
		if !slices.Contains(partNames(), name) {
			return s, fmt.Errorf("-rows: %q is none of %s", name, strings.Join(partNames(), ", "))
		}
		s.rows = append(s.rows, name)
	}
	for _, text := range split(*grow) {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxPods {
			return s, fmt.Errorf("-grow: %q is no number from 1 to %d", text, maxPods)
		}
		s.grow = append(s.grow, n)
	}
	slices.Sort(s.grow)
	if s.pods < 1 || s.pods > maxPods || s.n < 1 || s.restarts < 0 || s.pulls < 0 || s.calm < 0 || flags.NArg() > 0 {
		return s, fmt.Errorf("-pods %d, -n %d, -restart %d, -pull %d, -calm %s, other arguments %q: 1 to %d pods, at least one sample, nothing negative, and flags alone",
			s.pods, s.n, s.restarts, s.pulls, s.calm, flags.Args(), maxPods)
	}
	return s, nil
}

// maxPods is how many pods of both runtimes one bridge has ports for.
const maxPods = 500

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

// A part is some rows of the table, or a table of its own, that are measured together.
type part struct {
	name    string
	measure func(*benchmark, context.Context) error
}

func parts() []part {
	return []part{
		{"start", (*benchmark).start},
		{"together", (*benchmark).together},
		{"cpu", (*benchmark).cpu},
		{"exec", (*benchmark).exec},
		{"logs", (*benchmark).logs},
		{"standing", (*benchmark).standing},
		{"grow", (*benchmark).standing}, // with the one before, since pods are added to those that stand
		{"critest", (*benchmark).critest},
		{"stages", (*benchmark).stages},
		{"pull", (*benchmark).pull},
	}
}

func partNames() (all []string) {
	for _, p := range parts() {
		all = append(all, p.name)
	}
	return all
}

// run makes the surroundings, measures and prints. A part that fails leaves the others to be
// measured. What it made goes away also when it fails or is told to stop.
func run(ctx context.Context, s setting) (err error) {
	b := &benchmark{setting: s, figures: map[string]*figure{}}
	defer func() { err = errors.Join(err, b.close(context.WithoutCancel(ctx))) }()
	if err := b.open(ctx); err != nil {
		return err
	}
	var errs []error
	for _, p := range parts() {
		if !slices.Contains(s.rows, p.name) || p.name == "grow" && slices.Contains(s.rows, "standing") {
			continue
		}
		b.progress("%s", p.name)
		err := p.measure(b, ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", p.name, context.Cause(ctx))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
			b.progress("  FAILED: %v", err)
			b.markdown = "" // nothing by halves
		}
	}
	return errors.Join(append(errs, b.report())...)
}

// progress tells on stderr what goes on.
func (b *benchmark) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}
