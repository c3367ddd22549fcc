// The baseline program says what berth's operations cost in counts that hold on any machine,
// however busy: system calls, programs, allocations, waits for the disk, context switches; and
// their CPU as a multiple of that of a fixed piece of work which takes turns with them. The
// figures are stored in baseline.json. go test ./test/bench/baseline measures again and fails when
// one is more than its margin above what is stored, so that no operation gets dearer unnoticed.
//
// Who makes something cheaper, or dearer for a reason, stores the new figures:
//
//	go run ./test/bench/baseline                   compares, and prints all
//	go run ./test/bench/baseline -write -turns 9   stores
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"

	"github.com/berthd/berth/test/bench"
)

func main() {
	bench.Main("baseline", options, run)
}

// A setting is what the flags say.
type setting struct {
	write bool
	turns int
}

func options(args []string) (s setting, err error) {
	flags := flag.NewFlagSet("baseline", flag.ContinueOnError)
	flags.BoolVar(&s.write, "write", false, "store what is measured")
	flags.IntVar(&s.turns, "turns", defaultTurns, "turns, of which the median counts")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if s.turns < 1 || flags.NArg() > 0 {
		return s, fmt.Errorf("%d turns, other arguments %q: at least one, and flags alone", s.turns, flags.Args())
	}
	return s, nil
}

func run(ctx context.Context, s setting) error {
	m, err := measure(ctx, s.turns)
	if err != nil {
		return err
	}
	path := filepath.Join(m.repo, "test", "bench", "baseline", file)
	stored, err := read(path)
	if err != nil && !s.write {
		return err
	}
	found := compare(m, stored)
	fmt.Println(table(found).Text())
	if s.write {
		return store(path, m)
	}
	var errs []error
	for _, f := range found {
		if f.dearer {
			errs = append(errs, errors.New(f.String()))
		}
	}
	return errors.Join(errs...)
}
