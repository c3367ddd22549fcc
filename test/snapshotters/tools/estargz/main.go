// The estargz program makes an eStargz layer, for tests: it reads a tar archive, writes the
// layer to the file named, and prints the digests of its contents and of its table of
// contents.
package main

import (
	"bytes"
	"compress/gzip"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/containerd/stargz-snapshotter/estargz"
)

func main() {
	chunk := flag.Int("chunk", 64<<10, "bytes of a chunk")
	flag.Parse()
	if err := make(flag.Arg(0), *chunk); err != nil {
		fmt.Fprintln(os.Stderr, "estargz:", err)
		os.Exit(1)
	}
}

func make(path string, chunk int) error {
	tar, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	blob, err := estargz.Build(io.NewSectionReader(bytes.NewReader(tar), 0, int64(len(tar))),
		estargz.WithChunkSize(chunk), estargz.WithCompressionLevel(gzip.BestSpeed))
	if err != nil {
		return err
	}
	defer blob.Close()
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, blob); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	fmt.Println(blob.DiffID(), blob.TOCDigest())
	return nil
}
