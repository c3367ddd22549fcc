// Berthd is the container runtime daemon: it serves the Kubernetes CRI on a unix
// socket. Killing it at any moment harms no container; started again, it finds
// everything as it is.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/config"
)

// version is set when the release is built.
var version = "0.1.0-dev"

func main() {
	runtime.MemProfileRate = 0 // nobody reads that profile, and its table takes up to 1.4 MB
	if err := run(); err != nil {
		forgetSockets(socketNames...)
		fmt.Fprintln(os.Stderr, "berthd:", err)
		os.Exit(1)
	}
}

// run is main with an error: settings, signals, and the daemon between them.
func run() error {
	cfg, err := settings(os.Args[1:])
	if err != nil {
		return err
	}
	if cfg == nil {
		return nil // --version or --help was all that was asked for
	}
	logger, err := newLogger(cfg.Log)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(klog.NewContext(context.Background(), logger), stopSignals()...)
	defer stop()
	ignoreHangup()
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), parallel))
	return serve(ctx, *cfg)
}

// parallel is how many goroutines may run at once, at the least. Unpacking an image's layers
// takes up to twelve, and lets go of a processor of Go's after as much as 10 ms each time; a
// call that has none waits in the runtime, where the kernel would have run its thread at
// once. With two, a pod's start beside a pull took 1.5 times as long as without in the
// median and 3 times at p99; with twelve 1.2 times, and the pull no longer (make bench-cold).
const parallel = 12

// settings reads the flags and the file that they name. Flags win.
func settings(args []string) (*config.Config, error) {
	flags := flag.NewFlagSet("berthd", flag.ContinueOnError)
	path := flags.String("config", "", "settings file; every key in it is optional (default "+config.DefaultPath+", which may be absent)")
	root := flags.String("root", "", "folder that survives a reboot: images, snapshots, records")
	state := flags.String("state", "", "folder on a tmpfs: sockets, namespaces, bundles")
	socket := flags.String("socket", "", "unix socket to serve the CRI on")
	showVersion := flags.Bool("version", false, "print the version and exit")
	switch err := flags.Parse(args); {
	case err == flag.ErrHelp:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("flags: %w", err)
	case flags.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case *showVersion:
		fmt.Println("berthd", version)
		return nil, nil
	}
	cfg, err := config.Load(*path)
	if err != nil {
		return nil, err
	}
	return override(cfg, *root, *state, *socket)
}
