// The restart program measures how soon berthd knows its pods again after it was killed:
// from the start of its process to the first list with all of them, and until each shim
// has answered for every container. Once more with one of the shims stopped, which must
// cost the others nothing.
//
//	make bench-restart
//	make bench-restart BENCH="-pods 200 -rounds 10 -markdown docs/restart.md"
//	make bench-restart BENCH="-reboot -rounds 3"
//
// With -reboot it measures instead how soon the first new pod runs after a reboot.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"github.com/berthd/berth/test/bench"
	"github.com/berthd/berth/test/node"
)

// What is to be reached with 100 pods, in milliseconds.
const (
	listTarget    = 300
	adoptedTarget = 1000
)

// A setting is what the flags say.
type setting struct {
	pods, rounds, shims int
	reboot              bool
	markdown            string
}

func main() {
	bench.Main("bench-restart", options, run)
}

func options(args []string) (s setting, err error) {
	flags := flag.NewFlagSet("bench-restart", flag.ContinueOnError)
	flags.IntVar(&s.pods, "pods", 100, "pods, each with a container")
	flags.IntVar(&s.rounds, "rounds", 7, "kills, without and with a stopped shim")
	flags.IntVar(&s.shims, "shims", 10, "shims that they share")
	flags.BoolVar(&s.reboot, "reboot", false, "have the machine as after a reboot, in place of kills of berthd alone")
	flags.StringVar(&s.markdown, "markdown", "", "file that the table is also written to, as markdown")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if s.pods < 1 || s.rounds < 1 || s.shims < 2 || s.shims > s.pods || flags.NArg() > 0 {
		return s, fmt.Errorf("%d pods, %d rounds, %d shims, other arguments %q: at least one pod and round, two shims with a pod each, and flags alone", s.pods, s.rounds, s.shims, flags.Args())
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
	n, err := w.Berth("berth", fmt.Sprintf("pods_per_process = %d\n", (s.pods+s.shims-1)/s.shims)) // below [shim]
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\nend of its log:\n%s", err, n.Tail(15))
		}
		err = errors.Join(err, n.Close())
	}()
	if err := n.Start(ctx); err != nil {
		return err
	}
	b := &benchmark{setting: s, node: n}
	if b.client, err = n.Client(); err != nil {
		return err
	}
	defer func() { b.client.Close() }()
	defer func() { err = errors.Join(err, b.client.RemoveAll(clean)) }()
	if err := b.make(ctx, w.Dir); err != nil {
		return err
	}
	if s.reboot {
		boots, err := b.reboots(ctx, w.Dir)
		if err != nil {
			return err
		}
		return bench.Print([]bench.Table{b.bootTable(boots)}, s.markdown)
	}
	if err := b.all(ctx); err != nil {
		return err
	}
	return bench.Print([]bench.Table{b.table()}, s.markdown)
}
