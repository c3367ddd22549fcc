// The faults program lets each party that a runtime depends on down: it hangs, it fails or it
// answers late. It measures what becomes of everybody else meanwhile, looks at what is said of
// it, lets the party work again and expects that all recovers by itself, with nothing left.
// Quiet and faulty pods take turns, since the machine may be shared and noisy; only ratios of
// one run are figures.
//
// go test ./test/faults does the same with berth alone, once for each fault and without
// times. What a killed run leaves is mounts below its folder in TMPDIR, cgroups by the name
// berth-faults, and a bridge; all of it may be removed by hand.
//
//	make test-faults
//	make test-faults FAULTS="-only cni-hangs,disk-full -compare=false"
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"

	"github.com/berthd/berth/test/node"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, stopSignal())
	o, err := options(os.Args[1:])
	if err == nil {
		err = run(ctx, o)
	}
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
}

// A setting is what the flags say.
type setting struct {
	turns, pods int
	only        []string
	compare     bool
	markdown    string
}

func options(args []string) (o setting, err error) {
	flags := flag.NewFlagSet("faults", flag.ContinueOnError)
	flags.IntVar(&o.turns, "turns", 5, "turns, each of pods without the fault and pods with it")
	flags.IntVar(&o.pods, "pods", 20, "other pods in each half of a turn")
	only := flags.String("only", "", "faults, separated by commas; empty: all. One of: "+strings.Join(names(), ", "))
	flags.BoolVar(&o.compare, "compare", true, "the same with containerd")
	flags.StringVar(&o.markdown, "markdown", "", "file whose part between the markers gets the table")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	for _, name := range o.only {
		if !slices.Contains(names(), name) {
			return o, fmt.Errorf("no fault is called %q; there are %s", name, strings.Join(names(), ", "))
		}
	}
	if o.turns < 1 || o.pods < 1 || flags.NArg() > 0 {
		return o, fmt.Errorf("%d turns of %d pods, other arguments %q: at least one each, and flags alone", o.turns, o.pods, flags.Args())
	}
	return o, nil
}

// names lists the faults.
func names() (all []string) {
	for _, f := range faults() {
		all = append(all, f.name)
	}
	return all
}

// run goes through the matrix and prints it. What it made goes away also when it fails.
func run(ctx context.Context, o setting) (err error) {
	w, err := newWorld(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close(context.WithoutCancel(ctx))) }()
	var all []*result
	for _, f := range faults() {
		if len(o.only) > 0 && !slices.Contains(o.only, f.name) {
			continue
		}
		makers := []func(string, string) (*node.Node, error){w.berth}
		if o.compare {
			makers = append(makers, func(name, _ string) (*node.Node, error) { return w.containerd(ctx) })
		}
		for _, make := range makers {
			r, err := w.fault(ctx, f, make, o)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				r.wrong("%v", err)
			}
			fmt.Println(r.line())
			all = append(all, r)
		}
	}
	fmt.Print("\n", text(all, o))
	if o.markdown != "" {
		err = publish(o.markdown, markdown(all, o))
	}
	for _, r := range all {
		if r.runtime == "berth" && len(r.failures) > 0 {
			err = errors.Join(err, fmt.Errorf("%s: %s", r.fault, strings.Join(r.failures, "; ")))
		}
	}
	return err
}
