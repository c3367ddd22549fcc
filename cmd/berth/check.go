package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/config"
)

func checkCommand(to *target) *cobra.Command {
	var fileOnly bool
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a settings file as berthd does at its start, and what it names on this node",
		Long: "Check a settings file as berthd does at its start, and whether what it names is on\n" +
			"this node: exit 0 and say so when all is in order, exit 1 and name the keys when not.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := to.settings
			if len(args) > 0 {
				path = args[0]
			}
			return checkSettings(cmd.OutOrStdout(), path, fileOnly)
		},
	}
	cmd.Flags().BoolVar(&fileOnly, "file-only", false, "do not look for what the file names: it is for another machine")
	return cmd
}

// checkSettings says whether the settings are in order, and where not, how.
func checkSettings(out io.Writer, path string, fileOnly bool) error {
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	name, text := path, "in order"
	if path == "" {
		name = config.DefaultPath
		if _, err := os.Stat(name); errors.Is(err, os.ErrNotExist) {
			text = "absent: the defaults are in force (berth config default)"
		}
	}
	fmt.Fprintf(out, "%s: %s\n", name, text)
	if fileOnly {
		return nil
	}
	wrong, advice := cfg.Lacks()
	for _, err := range wrong {
		fmt.Fprintln(out, "this node:", clean(err.Error()))
	}
	for _, line := range advice {
		fmt.Fprintln(out, "this node:", line)
	}
	if len(wrong) > 0 {
		return errAnswered
	}
	return nil
}
