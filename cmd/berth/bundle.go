package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cmd/berth/bundle"
	"github.com/berthd/berth/config"
	"github.com/berthd/berth/operator/api"
)

func bundleCommand(to *target) *cobra.Command {
	var root, state string
	cmd := &cobra.Command{
		Use:   "bundle [FILE]",
		Short: "Collect what a report of a fault needs into one tar.gz",
		Long: "Collect what a report of a fault needs into one tar.gz: versions, settings, a dump of what\n" +
			"berthd is doing and those that it has kept, logs of berthd and its shims, records, mounts,\n" +
			"and how the node is. No secret is in it: of what kubelet wrote, values of environment\n" +
			"variables, arguments, annotations and labels are left out. A berthd that does not answer\n" +
			"is no hindrance. FILE is berth-bundle-TIME.tar.gz in this folder unless it is named.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "berth-bundle-" + time.Now().UTC().Format("20060102T150405") + ".tar.gz"
			if len(args) > 0 {
				path = args[0]
			}
			o, err := to.evidence(cmd.Context(), root, state)
			if err != nil {
				return err
			}
			for _, err := range o.Failures {
				fmt.Fprintln(cmd.ErrOrStderr(), "berth:", clean(err.Error()))
			}
			f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
			if err != nil {
				return fmt.Errorf("bundle: %w", err)
			}
			if err := errors.Join(bundle.Write(cmd.Context(), f, o), f.Close()); err != nil {
				return errors.Join(fmt.Errorf("bundle %s: %w", path, err), os.Remove(path))
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), path)
			return err
		},
	}
	cmd.Flags().StringVar(&root, "root", "", "berthd's root folder (default: as in the settings)")
	cmd.Flags().StringVar(&state, "state", "", "berthd's state folder (default: as in the settings)")
	return cmd
}

// evidence is what the settings and the daemon say. A daemon that says nothing is told of in Failures.
func (t *target) evidence(ctx context.Context, root, state string) (bundle.Options, error) {
	o := bundle.Options{Versions: fmt.Sprintf("berth %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)}
	settings, err := config.Load(t.settings)
	if err != nil {
		o.Failures = append(o.Failures, err)
		settings = config.Default()
	}
	o.Settings, o.Root, o.State = settings.String(), settings.Root, settings.State
	if root != "" {
		o.Root = root
	}
	if state != "" {
		o.State = state
	}
	for what, f := range map[string]func(context.Context, *client) error{
		"dump": func(ctx context.Context, c *client) error {
			if _, err := api.NewNodeClient(c.conn).Dump(ctx, &api.DumpRequest{}); err != nil {
				return c.explain(err)
			}
			return nil
		},
		"status": func(ctx context.Context, c *client) error {
			s, err := c.status(ctx)
			if err != nil {
				return err
			}
			o.Versions += s.Version + "\n"
			var out bytes.Buffer
			err = s.print(&out, true)
			o.Status = out.Bytes()
			return err
		},
	} {
		if err := t.ask(ctx, f); err != nil {
			o.Failures = append(o.Failures, fmt.Errorf("%s: %w", what, err))
		}
	}
	return o, ctx.Err()
}
