package snapshot

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/snapshot/erofs"
)

func (b *blobs) archive(ctx context.Context, name string, rec layerRecord, w io.Writer) error {
	if rec.Skeleton == nil {
		return fmt.Errorf("it is from before archives could be made again; remove its images and pull them again: %w", ErrUnsupported)
	}
	hash := digest.SHA256.Digester()
	if err := rebuild(ctx, b.path("layers", name), rec, io.MultiWriter(hash.Hash(), w)); err != nil {
		return err
	}
	if want, _ := layerID(name); hash.Digest() == want {
		return nil
	}
	what := ErrNotDigest
	if lone, err := b.isLoneFile(name, rec); err != nil {
		return err
	} else if !lone { // it was damaged before its checksums were made, or with them
		what = ErrDamaged
	}
	return fmt.Errorf("archive has digest %s: %w", hash.Digest(), what)
}

// isLoneFile tells whether a layer is one file and no directory that its archive lists, as
// an artifact's file is.
func (b *blobs) isLoneFile(name string, rec layerRecord) (bool, error) {
	n, _, err := readTree(b.path("layers", name, treeFile), rec.Tree)
	if err != nil {
		return false, err
	}
	for n.IsDir() {
		if _, implied := n.Xattrs[impliedXattr]; !implied || len(n.Children) != 1 {
			return false, nil
		}
		for _, n = range n.Children { // the one
		}
	}
	return n.Mode&erofs.KindMask == erofs.KindRegular, nil
}

// rebuild writes the archive of the layer in dir, and compares what it read with the
// layer's checksums.
func rebuild(ctx context.Context, dir string, rec layerRecord, w io.Writer) error {
	skeleton, err := openOurs(filepath.Join(dir, skeletonFile))
	if err != nil {
		return err
	}
	defer skeleton.Close()
	data, err := openOurs(filepath.Join(dir, dataFile))
	if err != nil {
		return err
	}
	defer data.Close()
	var skeletonSum, dataSum uint32
	z, err := zstd.NewReader(io.TeeReader(skeleton, crcWriter{&skeletonSum}), zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(skeletonWindow))
	if err != nil {
		return fmt.Errorf("%s: %w: %w", skeleton.Name(), ErrDamaged, err)
	}
	defer z.Close()
	r := rebuilding{ctx: ctx, to: w, skeleton: bufio.NewReader(z), buf: make([]byte, copyChunk),
		data: bufio.NewReaderSize(io.TeeReader(data, crcWriter{&dataSum}), 2*copyChunk)}
	if err := r.all(); err != nil {
		return err
	}
	if dataSum != rec.Data || skeletonSum != *rec.Skeleton {
		return fmt.Errorf("checksums %08x and %08x, not %08x and %08x: %w", dataSum, skeletonSum, rec.Data, *rec.Skeleton, ErrDamaged)
	}
	return nil
}

// openOurs opens a file of a layer, which is to be there.
func openOurs(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return f, err
}

// verify compares the archive, made again, with its digest, and the tree, which is not in
// it, with its checksum.
func (b *blobs) verify(ctx context.Context, name string, rec layerRecord) error {
	if err := checkSum(ctx, b.path("layers", name, treeFile), rec.Tree); err != nil {
		return err
	}
	if rec.Skeleton == nil {
		return checkSum(ctx, b.path("layers", name, dataFile), rec.Data)
	}
	if err := b.archive(ctx, name, rec, io.Discard); !errors.Is(err, ErrNotDigest) { // as with an artifact's file
		return err
	}
	return nil
}
