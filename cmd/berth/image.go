package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/operator/api"
)

func imageCommand(to *target) *cobra.Command {
	parent := &cobra.Command{
		Use: "image", Short: "Look at this node's images, bring some here, take some away",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	parent.AddCommand(imageListCommand(to), imagePullCommand(to), imageRemoveCommand(to), imageVerifyCommand(to),
		imageImportCommand(to), imageExportCommand(to), imagePushCommand(to))
	return parent
}

// anImage is what berth image ls prints as JSON.
type anImage struct {
	ID         string   `json:"id"`
	Tags       []string `json:"tags"`
	Digests    []string `json:"digests"`
	Size       int64    `json:"size"` // bytes: layers as they were compressed, and the configuration
	Pinned     bool     `json:"pinned"`
	Pulled     string   `json:"pulled"` // RFC 3339
	Platform   string   `json:"platform,omitempty"`
	Artifact   string   `json:"artifact_type,omitempty"` // an artifact cannot be run, only mounted
	Containers []string `json:"containers"`              // IDs of those that stand on it
}

type imageList struct {
	Images []anImage `json:"images"`
	Pulls  []aPull   `json:"pulls"` // under way
}

func imageListCommand(to *target) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the images, and the pulls under way",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return fmt.Errorf("--output: %q is not json", output)
			}
			return to.ask(cmd.Context(), func(ctx context.Context, c *client) error {
				list, err := c.images(ctx)
				if err != nil {
					return err
				}
				if output == "json" {
					enc := json.NewEncoder(cmd.OutOrStdout())
					enc.SetIndent("", "  ")
					return enc.Encode(list)
				}
				return list.print(cmd.OutOrStdout())
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json: print JSON")
	return cmd
}

func (c *client) images(ctx context.Context) (imageList, error) {
	resp, err := c.operator.List(ctx, &api.ListRequest{})
	if err != nil {
		return imageList{}, c.explain(err)
	}
	list := imageList{Images: []anImage{}, Pulls: []aPull{}}
	for _, i := range resp.GetImages() {
		list.Images = append(list.Images, anImage{
			ID: i.GetId(), Tags: orEmpty(i.GetTags()), Digests: orEmpty(i.GetDigests()), Size: i.GetSize(), Pinned: i.GetPinned(),
			Pulled: when(i.GetPulledUnixNano()), Platform: i.GetPlatform(), Artifact: i.GetArtifactType(), Containers: orEmpty(i.GetContainers()),
		})
	}
	list.Pulls, err = c.pulls(ctx)
	return list, err
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// print gives a line for each name: an image may have several, or none but its digest.
func (l imageList) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tSIZE\tPULLED\tUSED BY\tNOTE")
	for _, i := range l.Images {
		names := i.Tags
		if len(names) == 0 && len(i.Digests) > 0 {
			names = i.Digests[:1]
		}
		used, note := "nothing", ""
		if n := len(i.Containers); n == 1 {
			used = "1 container"
		} else if n > 1 {
			used = fmt.Sprint(n, " containers")
		}
		if i.Pinned {
			note = "pinned"
		}
		if i.Artifact != "" {
			note = strings.TrimPrefix(note+", artifact", ", ")
		}
		for _, name := range names {
			line := fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s", name, shortDigest(i.ID), bytesText(i.Size), i.Pulled, used, note)
			fmt.Fprintln(w, strings.TrimRight(clean(line), "\t"))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return printPulls(out, "", l.Pulls)
}

// shortDigest is as much of a digest as people read.
func shortDigest(d string) string {
	_, hex, _ := strings.Cut(d, ":")
	return hex[:min(len(hex), 12)]
}

// bytesText is a size for people.
func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprint(n, " B")
	}
	v, i := float64(n)/unit, 0
	for ; v >= unit && i < 4; i++ {
		v /= unit
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTP"[i])
}

func imageRemoveCommand(to *target) *cobra.Command {
	var unused bool
	cmd := &cobra.Command{
		Use:     "rm NAME|ID...",
		Aliases: []string{"remove"},
		Short:   "Take images away, with all of their names",
		Long: "Take images away, with all of their names and the layers that nothing else needs.\n" +
			"Containers that run go on. An image that is not there is fine.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if unused == (len(args) > 0) {
				return errors.New("name images, or --unused and none")
			}
			return to.reach(cmd.Context(), func(ctx context.Context, c *client) error {
				resp, err := c.operator.Remove(ctx, &api.RemoveRequest{Images: args, Unused: unused})
				if err != nil {
					return c.explain(err)
				}
				for _, i := range resp.GetRemoved() {
					fmt.Fprintln(cmd.OutOrStdout(), "removed", clean(nameOf(i)), shortDigest(i.GetId()))
				}
				if failed := resp.GetFailed(); len(failed) > 0 {
					return errors.New(strings.Join(failed, "\n"))
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&unused, "unused", false, "all that no container uses and that are not pinned")
	return cmd
}

// nameOf is what people call an image.
func nameOf(i *api.Image) string {
	for _, names := range [][]string{i.GetTags(), i.GetDigests()} {
		if len(names) > 0 {
			return strings.Join(names, ", ")
		}
	}
	return i.GetId()
}

// printPulls gives a line for each pull under way and what it waits for.
func printPulls(out io.Writer, indent string, pulls []aPull) error {
	for _, p := range pulls {
		since := ""
		if p.Started > 0 {
			since = ", since " + when(p.Started)
		}
		fmt.Fprintf(out, "%s%s %s: %s%s\n", indent, clean(p.Work), clean(p.Image), clean(p.summary(p.average(time.Now()))), since)
		for _, l := range p.Unfinished {
			if l.Stage != "" {
				fmt.Fprintf(out, "%s  layer %s  %s  %s\n", indent, shortDigest(l.Digest), bytesText(l.Size), clean(l.doing))
			}
		}
	}
	return nil
}
