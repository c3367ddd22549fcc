package bench

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
)

// Main is a benchmark's main function: it runs the program name, whose arguments options
// understands, until it is done or told to stop.
func Main[S any](name string, options func(args []string) (S, error), run func(context.Context, S) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, stopSignal())
	s, err := options(os.Args[1:])
	if err == nil {
		err = run(ctx, s)
	}
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
}
