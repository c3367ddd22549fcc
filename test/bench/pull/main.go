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
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/berthd/berth/test/bench/bigimage"
	"github.com/berthd/berth/test/bench/meter"
	"github.com/berthd/berth/test/bench/registry"
	"github.com/berthd/berth/test/node"
)

// host is what the image's registry is called.
const host = "bench.test"

func main() {
	registry.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, stopSignal())
	o, err := options(os.Args[1:])
	if err == nil {
		err = run(ctx, o)
	}
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench-pull:", err)
		os.Exit(1)
	}
}

// A setting is what the flags say.
type setting struct {
	rounds   int
	packings []string
	drivers  []string
	profile  bool
	markdown string
}

func options(args []string) (o setting, err error) {
	flags := flag.NewFlagSet("bench-pull", flag.ContinueOnError)
	flags.IntVar(&o.rounds, "rounds", 7, "pulls by each runtime of each packing")
	packings := flags.String("packings", strings.Join(bigimage.Packings(), ","), "compression of the layers")
	drivers := flags.String("drivers", "", "berth's snapshot.driver; several, separated by commas, take turns; empty is berth's default")
	flags.BoolVar(&o.profile, "profile", true, "one more pull each at the end, under perf, to say where the CPU goes")
	flags.StringVar(&o.markdown, "markdown", "", "file that the tables are also written to, as markdown")
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
	w, err := node.NewWorld(ctx)
	if err != nil {
		return err
	}
	clean := context.WithoutCancel(ctx)
	defer func() { err = errors.Join(err, w.Close(clean)) }()
	if err := meter.OnDisk(w.Dir); err != nil {
		return err
	}
	fmt.Println("containerd and runc are built unless .cache has them; so is the image, in a minute")
	if err := w.BuildContainerd(ctx); err != nil {
		return err
	}
	if err := buildBerth(ctx, w); err != nil {
		return err
	}
	layout, err := bigimage.Build(ctx, w.Repo, filepath.Join(w.Repo, ".cache", "images"), bigimage.Big())
	if err != nil {
		return err
	}
	reg, err := registry.Start(layout.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.Close()) }()
	if err := registry.WriteHosts(w.Certs, host, reg.Addr); err != nil {
		return err
	}
	b := &benchmark{world: w, registry: reg, setting: o, results: map[key][]result{}}
	if err := b.all(ctx); err != nil {
		return err
	}
	return b.print(layout)
}

// buildBerth builds a berthd with symbols, for perf, and has the nodes run it. Symbols change
// nothing about its speed.
func buildBerth(ctx context.Context, w *node.World) error {
	bin := filepath.Join(w.Dir, "bin")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", filepath.Join(bin, "berthd"), "./cmd/berthd")
	cmd.Dir, cmd.Env = w.Repo, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build berthd: %w: %s", err, out)
	}
	shim := filepath.Join(w.Repo, "bin", "berth-shim")
	if _, err := os.Stat(shim); err != nil {
		return fmt.Errorf("%w; make build builds it", err)
	}
	if err := os.Symlink(shim, filepath.Join(bin, "berth-shim")); err != nil {
		return err
	}
	return os.Setenv("BERTH_BIN", bin)
}

// print prints the tables.
func (b *benchmark) print(layout bigimage.Layout) error {
	var md strings.Builder
	for _, t := range b.tables(layout) {
		fmt.Println("\n" + t.Text())
		md.WriteString(t.Markdown() + "\n")
	}
	if b.markdown == "" {
		return nil
	}
	return os.WriteFile(b.markdown, []byte(md.String()), 0o644)
}
