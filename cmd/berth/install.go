package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cmd/berth/installation"
)

func installCommand() *cobra.Command {
	var o installation.Options
	var uninstall bool
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Put berth on this node, or take it away",
		Long: "Put berth on this node: programs, systemd's units, " +
			"/etc/berth/config.toml and /etc/crictl.yaml.\nIt may be repeated, with a newer berth too. Files that somebody else wrote or changed\n" +
			"are left alone and named.\n\nWith --uninstall, take away all of it and what berthd keeps: images and records. That\nis refused while the node has pods.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Network != "embedded" && o.Network != "none" {
				return fmt.Errorf("--network: %q is not one of embedded, none", o.Network)
			}
			if uninstall {
				return installation.Uninstall(cmd.Context(), o, cmd.OutOrStdout())
			}
			if o.From == "" {
				self, err := os.Executable()
				if err != nil {
					return fmt.Errorf("where the programs are: %w (say it with --from)", err)
				}
				o.From = filepath.Dir(self)
			}
			return installation.Install(cmd.Context(), o, cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&uninstall, "uninstall", false, "take berth away from this node")
	flags.StringVar(&o.Root, "root", "/", "folder that is the node's root, as in an image that is being made; nothing is started in it")
	flags.StringVar(&o.From, "from", "", "folder with the programs berthd, berth-shim and berth (default: where this one is)")
	flags.StringVar(&o.BinDir, "bin-dir", "/usr/local/bin", "folder of the node that they go to")
	flags.StringVar(&o.Settings, "settings", "", "file that becomes /etc/berth/config.toml (default: what differs from the defaults on this node)")
	flags.StringVar(&o.Plugins, "cni-plugins", "", "folder with CNI plugins, which are copied to the node's /opt/cni/bin")
	flags.StringVar(&o.Network, "network", "embedded", "in the settings that are written: embedded (berth's own network while there is no CNI configuration) or none")
	flags.BoolVar(&o.Now, "now", false, "start berthd; start it again when what it runs has changed")
	flags.BoolVar(&o.Force, "force", false, "replace files that are not berth's; uninstall although there are pods")
	flags.BoolVar(&o.DryRun, "dry-run", false, "only say what would be done")
	return cmd
}
