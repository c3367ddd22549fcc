// The idle program measures what a node with pods costs while nothing happens there, and what it
// costs to ask it what there is: how often its processes are woken, their CPU and memory, and
// lists, statuses and stats, one after the other. With -containerd it does the same with
// containerd, in turns.
//
//	make bench-idle
//	make bench-idle BENCH="-pods 200 -rest 2m -containerd -markdown docs/idle.md"
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/berthd/berth/test/bench"
	"github.com/berthd/berth/test/node"
)

// A setting is what the flags say.
type setting struct {
	pods, asks int
	rest       time.Duration
	containerd bool
	markdown   string
}

func main() {
	bench.Main("bench-idle", options, run)
}

func options(args []string) (s setting, err error) {
	flags := flag.NewFlagSet("bench-idle", flag.ContinueOnError)
	flags.IntVar(&s.pods, "pods", 60, "pods, each with a container")
	flags.IntVar(&s.asks, "asks", 200, "calls of each kind")
	flags.DurationVar(&s.rest, "rest", 30*time.Second, "how long the node is left alone")
	flags.BoolVar(&s.containerd, "containerd", false, "measure containerd too")
	flags.StringVar(&s.markdown, "markdown", "", "file that the tables are also written to, as markdown")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if s.pods < 1 || s.asks < 1 || s.rest < time.Second || flags.NArg() > 0 {
		return s, fmt.Errorf("%d pods, %d asks, a rest of %v, other arguments %q: at least one pod and ask, a second's rest, and flags alone", s.pods, s.asks, s.rest, flags.Args())
	}
	return s, nil
}

// run makes the surroundings, measures and prints. What it made goes away also when it fails.
func run(ctx context.Context, s setting) (err error) {
	w, err := node.NewWorld(ctx)
	if err != nil {
		return err
	}
	clean := context.WithoutCancel(ctx)
	defer func() { err = errors.Join(err, w.Close(clean)) }()
	b := &benchmark{setting: s, logs: w.Dir}
	berth, err := w.Berth("berth", "")
	if err != nil {
		return err
	}
	nodes := []*node.Node{berth}
	if s.containerd {
		other, err := w.Containerd(ctx)
		if err != nil {
			return err
		}
		nodes = append(nodes, other)
	}
	for _, n := range nodes {
		c := &contender{node: n}
		b.contenders = append(b.contenders, c)
		defer func() { err = errors.Join(err, c.close(clean)) }()
		if err := b.open(ctx, c); err != nil {
			return fmt.Errorf("%s: %w\nend of its log:\n%s", n.Name, err, n.Tail(15))
		}
	}
	if err := b.measure(ctx); err != nil {
		return err
	}
	return bench.Print([]bench.Table{b.restTable(), b.callTable()}, s.markdown)
}
