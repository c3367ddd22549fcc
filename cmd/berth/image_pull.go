package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/operator/api"
)

func imagePullCommand(to *target) *cobra.Command {
	var who login
	cmd := &cobra.Command{
		Use:   "pull NAME",
		Short: "Pull an image, and show how far it has come",
		Long: "Pull an image as kubelet has it pulled, and show how far it has come: on standard error,\n" +
			"a bar on a terminal, else lines. What is being pulled already is joined. Ctrl-C ends it;\n" +
			"whole layers stay for the next try.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			creds, err := who.read(cmd.InOrStdin())
			if err != nil {
				return err
			}
			return to.reach(cmd.Context(), func(ctx context.Context, c *client) error {
				img, err := c.pull(ctx, cmd.ErrOrStderr(), &api.PullRequest{Image: args[0], Credentials: creds})
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), clean(img.GetId()))
				return err
			})
		},
	}
	who.flags(cmd)
	return cmd
}

func (c *client) pull(ctx context.Context, out io.Writer, req *api.PullRequest) (*api.Image, error) {
	stream, err := c.operator.Pull(ctx, req)
	if err != nil {
		return nil, c.explain(err)
	}
	resp, err := follow(out, stream.Recv, func(r *api.PullResponse) bool { return r.GetImage() != nil })
	if err != nil {
		return nil, c.explain(err)
	}
	return resp.GetImage(), nil
}

// A login says where a registry's credentials come from. Never the command line, which
// every process can read.
type login struct {
	user  string
	stdin bool
}

func (l *login) flags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&l.user, "username", "u", "", "user of the registry; needs --password-stdin")
	cmd.Flags().BoolVar(&l.stdin, "password-stdin", false, "read the password from standard input, or USER:PASSWORD without --username")
}

// read is the credentials, nil for none.
func (l *login) read(in io.Reader) (*api.Credentials, error) {
	if !l.stdin {
		if l.user != "" {
			return nil, errors.New("--username: needs --password-stdin")
		}
		return nil, nil
	}
	line, err := bufio.NewReader(io.LimitReader(in, 64<<10)).ReadString('\n')
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("--password-stdin: %w", err)
	}
	user, password := l.user, strings.TrimRight(line, "\r\n")
	if user == "" {
		var ok bool
		if user, password, ok = strings.Cut(password, ":"); !ok {
			return nil, errors.New("--password-stdin: without --username, standard input is to have USER:PASSWORD")
		}
	}
	if password == "" {
		return nil, errors.New("--password-stdin: there is no password on standard input")
	}
	return &api.Credentials{Username: user, Password: password}, nil
}
