package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/operator/api"
)

func imageVerifyCommand(to *target) *cobra.Command {
	return &cobra.Command{
		Use:   "verify [NAME|ID...]",
		Short: "Read all of each image and compare it with its digests",
		Long: "Read all of each image, or of those that are named, and compare it with its digests.\n" +
			"The exit code is 1 when one is damaged. A damaged layer is put away: new containers do\n" +
			"not get it, and the next pull of the image fetches it again.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return to.reach(cmd.Context(), func(ctx context.Context, c *client) error {
				return c.verify(ctx, cmd.OutOrStdout(), args)
			})
		},
	}
}

func (c *client) verify(ctx context.Context, out io.Writer, images []string) error {
	stream, err := c.operator.Verify(ctx, &api.VerifyRequest{Images: images})
	if err != nil {
		return c.explain(err)
	}
	damaged := false
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if damaged {
				fmt.Fprintln(out, "The next pull of a damaged image mends it: berth image pull NAME")
				return errAnswered
			}
			return nil
		}
		if err != nil {
			return c.explain(err)
		}
		verdict := "ok"
		switch resp.GetVerdict() {
		case api.Verdict_DAMAGED:
			verdict, damaged = "DAMAGED", true
		case api.Verdict_UNVERIFIABLE:
			verdict = "not verifiable"
		}
		fmt.Fprintf(out, "%s  %s  %s\n", shortDigest(resp.GetImage().GetId()), clean(nameOf(resp.GetImage())), verdict)
		for _, f := range resp.GetFindings() {
			fmt.Fprintln(out, "  "+clean(f))
		}
	}
}
