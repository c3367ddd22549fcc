// The pull program measures how berth pulls a big image beside containerd: the same
// image from the same registry on loopback, in turns, each into a store of its own
// that is empty at the start. The machine is shared and noisy, so the figure is the
// ratio within a round, and its median over the rounds.
//
//	make bench-pull
//	make bench-pull BENCH="-rounds 3 -drivers overlay,erofs -markdown docs/pull.md"
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/berthd/berth/test/bench"
	"github.com/berthd/berth/test/bench/bigimage"
	"github.com/berthd/berth/test/bench/registry"
)

func main() {
	registry.Main()
	bench.Main("bench-pull", options, run)
}

// A setting is what the flags say.
type setting struct {
	rounds   int
	packings []string
	drivers  []string
	profile  bool
	markdown string
	json     string
	dir      string
	helpers  bool
}

func options(args []string) (o setting, err error) {
	flags := flag.NewFlagSet("bench-pull", flag.ContinueOnError)
	flags.IntVar(&o.rounds, "rounds", 7, "pulls by each runtime of each packing")
	packings := flags.String("packings", strings.Join(bigimage.Packings(), ","), "compression of the layers")
	drivers := flags.String("drivers", "", "berth's snapshot.driver; several, separated by commas, take turns; empty is berth's default")
	flags.BoolVar(&o.profile, "profile", true, "one more pull each at the end, under perf, to say where the CPU goes")
	flags.StringVar(&o.markdown, "markdown", "", "file that the tables are also written to, as markdown")
	flags.StringVar(&o.json, "json", "", "file that the wall times and the disk used by each round are also written to, as JSON")
	flags.BoolVar(&o.helpers, "helpers", true, "let containerd unpack gzip with igzip or unpigz where they are installed, as it does by itself")
	flags.StringVar(&o.dir, "dir", "", "folder for the stores, on a disk that nobody else uses; empty is an ext4 of the benchmark's own, on a loop device")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.packings, o.drivers = strings.Split(*packings, ","), strings.Split(*drivers, ",")
	if o.rounds < 1 || flags.NArg() > 0 {
		return o, fmt.Errorf("%d rounds, other arguments %q: at least one round, and flags alone", o.rounds, flags.Args())
	}
	return o, nil
}

// run makes the surroundings, measures and prints. What it made goes away also when it fails.
func run(ctx context.Context, o setting) (err error) {
	fmt.Println("containerd and runc are built unless .cache has them; so is the image, in a minute")
	p, err := bench.NewPlace(ctx, o.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close(context.WithoutCancel(ctx))) }()
	if err := p.World.BuildContainerd(ctx); err != nil {
		return err
	}
	if !o.helpers { // containerd's own switches
		for _, name := range []string{"CONTAINERD_DISABLE_IGZIP", "CONTAINERD_DISABLE_PIGZ"} {
			if err := os.Setenv(name, "1"); err != nil {
				return err
			}
		}
	}
	b := &benchmark{Place: p, setting: o, results: map[key][]result{}}
	if err := b.all(ctx); err != nil {
		return err
	}
	return errors.Join(b.export(), bench.Print(b.tables(), b.markdown))
}
