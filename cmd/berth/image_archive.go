package main

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/berthd/berth/operator/api"
)

// part is how much of an archive is in one message, in bytes.
const part = 1 << 20

func imageImportCommand(to *target) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "import FILE|FOLDER|-",
		Short: "Take the images of an archive",
		Long: "Take the images of an archive, or of standard input (-): an OCI image layout, as a tar archive\n" +
			"or a folder, or what docker save writes. An archive may be compressed with gzip or zstd.\n" +
			"Images get the names that the archive has for them, which other images lose.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := openArchive(cmd.InOrStdin(), args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			return to.reach(cmd.Context(), func(ctx context.Context, c *client) error {
				return c.importFrom(ctx, cmd.OutOrStdout(), in, name)
			})
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name for the archive's one image, in place of those that the archive has")
	return cmd
}

// openArchive opens what is to be imported.
func openArchive(stdin io.Reader, path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(stdin), nil
	}
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		return os.Open(path)
	}
	if _, err := os.Stat(filepath.Join(path, "index.json")); err != nil {
		return nil, fmt.Errorf("%s: is no OCI image layout: %w", path, err)
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(tarFolder(w, path)) }()
	return r, nil
}

// tarFolder makes an archive of a folder.
func tarFolder(w io.Writer, path string) error {
	out := tar.NewWriter(w)
	if err := out.AddFS(os.DirFS(path)); err != nil {
		return err
	}
	return out.Close()
}

func (c *client) importFrom(ctx context.Context, out io.Writer, in io.Reader, name string) error {
	stream, err := c.operator.Import(ctx)
	if err != nil {
		return c.explain(err)
	}
	req := &api.ImportRequest{Name: name}
	for buf := make([]byte, part); ; {
		n, err := io.ReadFull(in, buf)
		req.Data = buf[:n]
		if sendErr := stream.Send(req); errors.Is(sendErr, io.EOF) {
			break // it has an answer, and does not read on
		} else if sendErr != nil {
			return c.explain(sendErr)
		}
		req = &api.ImportRequest{}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return err
		}
	}
	resp, err := stream.CloseAndRecv()
	if err != nil {
		return c.explain(err)
	}
	for _, i := range resp.GetImages() {
		fmt.Fprintln(out, "imported", clean(nameOf(i)), shortDigest(i.GetId()))
	}
	return nil
}

func imageExportCommand(to *target) *cobra.Command {
	var format, compress string
	cmd := &cobra.Command{
		Use:   "export NAME|ID... FILE|-",
		Short: "Write an archive of images",
		Long: "Write an archive of images to a file or to standard output (-). Their IDs stay as they are. The\n" +
			"blobs of a registry are not kept on a node: layers are made again from the disk, and so\n" +
			"the digest of the manifest is another than the registry's.",
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			images, file := args[:len(args)-1], args[len(args)-1]
			req := &api.ExportRequest{Images: images, Format: format, Compress: compress}
			return to.reach(cmd.Context(), func(ctx context.Context, c *client) error {
				if file == "-" {
					if f, ok := cmd.OutOrStdout().(*os.File); ok && term.IsTerminal(int(f.Fd())) {
						return errors.New("standard output is a terminal: name a file")
					}
					return c.export(ctx, cmd.OutOrStdout(), req)
				}
				return writeTo(file, func(w io.Writer) error { return c.export(ctx, w, req) })
			})
		},
	}
	cmd.Flags().StringVar(&format, "format", "oci", "oci (an OCI image layout) or docker (for docker load)")
	cmd.Flags().StringVar(&compress, "compress", "", "compress layers: gzip or zstd (default: not)")
	return cmd
}

// writeTo writes into what is at path if that is a pipe or a device, and otherwise makes a
// file that is there only when it is whole. It follows links, and what it replaces gives the
// new file its mode and owner.
func writeTo(path string, write func(io.Writer) error) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	have, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return replaceFile(path, nil, write)
	case err != nil:
		return err
	case have.IsDir():
		return fmt.Errorf("%s is a folder: name a file in it", path)
	case have.Mode().IsRegular():
		return replaceFile(path, have, write)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// replaceFile makes a file, in place of have unless that is nil.
func replaceFile(path string, have fs.FileInfo, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close() // a second Close is harmless
			os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := takeAfter(f, have); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func (c *client) export(ctx context.Context, to io.Writer, req *api.ExportRequest) error {
	stream, err := c.operator.Export(ctx, req)
	if err != nil {
		return c.explain(err)
	}
	out := bufio.NewWriterSize(to, part)
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out.Flush()
		}
		if err != nil {
			return c.explain(err)
		}
		if _, err := out.Write(resp.GetData()); err != nil {
			return err
		}
	}
}
