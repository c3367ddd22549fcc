// The soak program keeps a node in motion and in trouble for an hour, and looks after each
// round whether all is as it should be.
//
// Pods are made, their containers started, asked, stopped and started again, their logs read and
// rotated, images pulled and removed, all at once; meanwhile berthd and its shims are killed, CNI
// plugins fail and hang, the disk is full for a while and the registry silent. A call may fail
// while something is in trouble, and the pod is then removed, as kubelet would. After each round
// nothing is in trouble any more, and then what the CRI lists is what was asked for, exit codes
// and logs are right, and every mount, namespace, cgroup, interface, address, rule, file and
// process belongs to what is listed. Anything else is a finding, and ends the soak with an error.
//
//	make soak
//	make soak SOAK="-duration 10m -pods 50 -seed 7"
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/berthd/berth/test/bench"
)

// A setting is what the flags say.
type setting struct {
	duration time.Duration
	round    time.Duration // of motion; then all is looked at
	pods     int
	workers  int
	seed     uint64
	shimDies string // lost or kept: what becomes of containers whose shim was killed
	docs     string // a folder for the graphs and the table; "": nowhere
}

func main() {
	bench.Main("soak", options, func(ctx context.Context, s setting) error {
		return soak(ctx, s, func(line string) { fmt.Println(line) })
	})
}

func options(args []string) (s setting, err error) {
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	flags.DurationVar(&s.duration, "duration", time.Hour, "how long, the looking not counted")
	flags.DurationVar(&s.round, "round", 20*time.Second, "how long there is motion before all is looked at")
	flags.IntVar(&s.pods, "pods", 110, "pods in motion")
	flags.IntVar(&s.workers, "workers", 8, "what goes on at once")
	flags.Uint64Var(&s.seed, "seed", rand.Uint64(), "of all that is random, for the same order of troubles")
	flags.StringVar(&s.shimDies, "shim-death", "kept", "what becomes of containers whose shim is killed: lost (they have ended, with the reason ShimLost) or kept")
	flags.StringVar(&s.docs, "docs", "", "folder whose reliability.md gets the table and the graphs")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if s.pods < 1 || s.pods > 240 || s.workers < 1 || s.round <= 0 || flags.NArg() > 0 || s.shimDies != "lost" && s.shimDies != "kept" {
		return s, errors.New("1 to 240 pods, a worker at least, -shim-death=lost or kept, and flags alone")
	}
	return s, nil
}
