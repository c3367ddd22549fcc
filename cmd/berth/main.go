// Berth is the operator's command line: what the daemon thinks of itself, of a
// pod, of its images and of its settings. It asks through the CRI socket and changes
// nothing, but for berth image, which brings and removes images, and berth install,
// which puts berth on a node.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/config"
)

// version is set when the release is built.
var version = "0.1.0-dev"

// errAnswered ends the program with code 1 when the output has said why.
var errAnswered = errors.New("not ready")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		if !errors.Is(err, errAnswered) {
			fmt.Fprintln(os.Stderr, "berth:", clean(err.Error()))
		}
		os.Exit(1)
	}
}

// A target is the daemon that is asked.
type target struct {
	settings, socket string
	timeout          time.Duration
}

// command is the whole command line.
func command() *cobra.Command {
	to := &target{}
	root := &cobra.Command{
		Use:           "berth",
		Short:         "Look at the berth container runtime of this node",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs, // an unknown command is an error
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	flags := root.PersistentFlags()
	flags.StringVar(&to.settings, "config", "", "settings file that berthd runs with (default "+config.DefaultPath+", which may be absent)")
	flags.StringVar(&to.socket, "socket", "", "unix socket of berthd (default: as in the settings)")
	flags.DurationVar(&to.timeout, "timeout", 10*time.Second, "how long to wait for berthd")
	root.AddCommand(statusCommand(to), whyCommand(to), imageCommand(to), configCommand(to), bundleCommand(to), installCommand(), versionCommand())
	return root
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "berth %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

func configCommand(to *target) *cobra.Command {
	parent := &cobra.Command{
		Use: "config", Short: "Print the default settings, or check a settings file",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	parent.AddCommand(
		&cobra.Command{
			Use:   "default",
			Short: "Print the default settings, with the meaning of each key",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, err := fmt.Fprint(cmd.OutOrStdout(), config.Default())
				return err
			},
		},
		checkCommand(to),
	)
	return parent
}

// clean keeps text from talking to the terminal: it may come from a registry or
// from a program in a container.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return '\uFFFD'
		}
		return r
	}, text)
}
