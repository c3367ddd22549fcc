// The shim program measures what keeping containers costs: each call of a pod's life, from
// RunPodSandbox to RemovePodSandbox, with berthd's own stages; commands; the memory of
// berthd and its shims over the number of pods; and how fast a container's output is logged.
//
//	make bench-shim
//	make bench-shim BENCH="-pods 100 -execs 500 -memory 60 -log 1024"
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/berthd/berth/test/bench"
	"github.com/berthd/berth/test/node"
)

// A setting is what the flags say. A part that is 0 is left out.
type setting struct {
	pods, execs, memory, log int
	host                     bool
	perShim                  int
	markdown                 string
}

func main() {
	bench.Main("bench-shim", options, run)
}

func options(args []string) (s setting, err error) {
	flags := flag.NewFlagSet("bench-shim", flag.ContinueOnError)
	flags.IntVar(&s.pods, "pods", 50, "pods that are run and removed, one at a time")
	flags.IntVar(&s.execs, "execs", 200, "commands that are run with ExecSync, one at a time")
	flags.IntVar(&s.memory, "memory", 60, "pods whose memory is measured")
	flags.IntVar(&s.log, "log", 1024, "MiB that a container writes to its log, in lines of 100 bytes")
	flags.BoolVar(&s.host, "host", false, "pods are on the host's network: no CNI plugin runs")
	flags.IntVar(&s.perShim, "per-shim", 64, "pods of a shim")
	flags.StringVar(&s.markdown, "markdown", "", "file that the tables are also written to, as markdown")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if s.pods < 0 || s.execs < 0 || s.memory < 0 || s.log < 0 || s.perShim < 1 || flags.NArg() > 0 {
		return s, fmt.Errorf("no number may be negative, and there are no arguments but flags: %q", flags.Args())
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
	dir, err := os.MkdirTemp("/run", "berth-bench-") // of root's alone, for berthd's figures
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &benchmark{setting: s, metrics: filepath.Join(dir, "metrics.sock"), logs: filepath.Join(w.Dir, "bench-logs")}
	b.node, err = w.Berth("berth", fmt.Sprintf("pods_per_process = %d\n[metrics]\naddress = %q\n", s.perShim, "unix://"+b.metrics)) // below [shim]
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\nend of its log:\n%s", err, b.node.Tail(15))
		}
		err = errors.Join(err, b.node.Close())
	}()
	if err := b.node.Start(ctx); err != nil {
		return err
	}
	if b.client, err = b.node.Client(); err != nil {
		return err
	}
	defer b.client.Close()
	defer func() { err = errors.Join(err, b.client.RemoveAll(clean)) }()
	tables, err := b.all(ctx)
	if err != nil {
		return err
	}
	return bench.Print(tables, s.markdown)
}
