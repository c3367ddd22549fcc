// The cold program measures pods beside pulls: 30 pods of one image that is not there yet,
// all at once, and how long pods of an image that is there take while the big one is being
// pulled. The machine is shared and noisy, so pods without and with a pull take turns.
//
//	make bench-cold
//	make bench-cold BENCH="-drivers overlay,erofs -compare -markdown docs/cold.md"
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/berthd/berth/test/bench"
	"github.com/berthd/berth/test/bench/registry"
	"github.com/berthd/berth/test/node"
)

func main() {
	registry.Main()
	bench.Main("bench-cold", options, run)
}

// A setting is what the flags say.
type setting struct {
	together int
	pods     int
	turns    int
	packing  string
	drivers  []string
	compare  bool
	markdown string
	dir      string
}

func options(args []string) (o setting, err error) {
	flags := flag.NewFlagSet("bench-cold", flag.ContinueOnError)
	flags.IntVar(&o.together, "together", 30, "pods of the cold image at once")
	flags.IntVar(&o.pods, "pods", 100, "pods of the warm image without a pull, and as many during pulls")
	flags.IntVar(&o.turns, "turns", 4, "turns in which these take place")
	flags.StringVar(&o.packing, "packing", "gzip", "compression of the layers")
	drivers := flags.String("drivers", "", "berth's snapshot.driver; several, separated by commas, one after the other; empty is berth's default")
	flags.BoolVar(&o.compare, "compare", false, "the same with containerd")
	flags.StringVar(&o.markdown, "markdown", "", "file that the tables are also written to, as markdown")
	flags.StringVar(&o.dir, "dir", "", "folder for the stores, on a disk that nobody else uses; empty is an ext4 of the benchmark's own, on a loop device")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.drivers = strings.Split(*drivers, ",")
	if o.turns < 1 || o.pods < o.turns || o.together < 1 || flags.NArg() > 0 {
		return o, fmt.Errorf("%d pods in %d turns, %d together, other arguments %q: at least one pod each, and flags alone", o.pods, o.turns, o.together, flags.Args())
	}
	return o, nil
}

// run makes the surroundings, measures and prints. What it made goes away also when it fails.
func run(ctx context.Context, o setting) (err error) {
	p, err := bench.NewPlace(ctx, o.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close(context.WithoutCancel(ctx))) }()
	b := &benchmark{Place: p, setting: o}
	for _, driver := range o.drivers {
		n, err := p.World.Berth("berth", bench.BerthConfig(driver))
		if err != nil {
			return err
		}
		if err := b.runtime(ctx, strings.TrimSpace("berth "+driver), n); err != nil {
			return err
		}
	}
	if o.compare {
		n, err := p.World.Containerd(ctx)
		if err != nil {
			return err
		}
		if err := b.runtime(ctx, "containerd", n); err != nil {
			return err
		}
	}
	return bench.Print([]bench.Table{b.once(), b.beside()}, o.markdown)
}

// runtime measures one runtime and takes it away.
func (b *benchmark) runtime(ctx context.Context, name string, n *node.Node) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w\nend of its log:\n%s", name, err, n.Tail(15))
		}
		err = errors.Join(err, n.Close())
	}()
	if err := n.Start(ctx); err != nil {
		return err
	}
	c, err := n.Client()
	if err != nil {
		return err
	}
	defer c.Close()
	defer func() { err = errors.Join(err, c.RemoveAll(context.WithoutCancel(ctx))) }()
	logs := filepath.Join(b.World.Dir, "bench-logs")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return err
	}
	m := measured{name: name}
	if err := b.cold(ctx, c, logs, &m); err != nil {
		return fmt.Errorf("%d pods of a cold image: %w", b.together, err)
	}
	if err := b.warm(ctx, c, logs, &m); err != nil {
		return fmt.Errorf("pods beside a pull: %w", err)
	}
	b.all = append(b.all, m)
	return nil
}
