package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/operator/api"
)

func imagePushCommand(to *target) *cobra.Command {
	var who login
	var compress string
	cmd := &cobra.Command{
		Use:   "push NAME|ID [TARGET]",
		Short: "Send an image to a registry",
		Long: "Send an image to a registry: under its name, or as TARGET. Where the registry has the blobs\n" +
			"that the image came with, it keeps the digest of its manifest; else layers are made again from\n" +
			"the disk and the digest is a new one. The image's ID stays in any case.\n" +
			"The hosts.toml of the registry counts: a host needs the capability push.",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			creds, err := who.read(cmd.InOrStdin())
			if err != nil {
				return err
			}
			req := &api.PushRequest{Image: args[0], Credentials: creds, Compress: compress}
			if len(args) > 1 {
				req.Target = args[1]
			}
			return to.reach(cmd.Context(), func(ctx context.Context, c *client) error {
				resp, err := c.push(ctx, cmd.ErrOrStderr(), req)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), clean(resp.GetTarget()), clean(resp.GetDigest()))
				return err
			})
		},
	}
	who.flags(cmd)
	cmd.Flags().StringVar(&compress, "compress", "gzip", "how to compress layers that the registry lacks: gzip, zstd or none")
	return cmd
}

func (c *client) push(ctx context.Context, out io.Writer, req *api.PushRequest) (*api.PushResponse, error) {
	stream, err := c.operator.Push(ctx, req)
	if err != nil {
		return nil, c.explain(err)
	}
	resp, err := follow(out, stream.Recv, func(r *api.PushResponse) bool { return r.GetDigest() != "" })
	if err != nil {
		return nil, c.explain(err)
	}
	return resp, nil
}
