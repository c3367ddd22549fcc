package snapshot

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/snapshot/erofs"
)

// blobs is the format that keeps a layer as two files, its files' bytes and its tree, and
// an image as a third one, the tree of all its layers over their bytes. That one is
// mounted as EROFS, once for all containers of the image. On disk:
//
//	layers/…/data    the bytes of the layer's files
//	layers/…/tree    an EROFS file system over them, with overlay's marks
//	layers/…/skeleton  what else the layer's archive had (skeleton.go)
//	seals/…/image    an EROFS file system over the data of the layers that it needs
//	mounts/<hex>/    where a seal is mounted while a container stands on it
type blobs struct {
	*overlay

	loops    bool     // a file is mounted by a loop device
	verity   bool     // the file system has fs-verity
	mounting keyLocks // seals being mounted and unmounted, by name
}

// The names of the files.
const (
	dataFile     = "data"
	treeFile     = "tree"
	skeletonFile = "skeleton"
	imageFile    = "image"
)

// impliedXattr marks directories of a layer's tree that its archive did not list. It is
// in no image.
const impliedXattr = "trusted.berth.implied"

func (b *blobs) fill(ctx context.Context, tmp string, r io.Reader) (rec layerRecord, err error) {
	data, err := os.OpenFile(filepath.Join(tmp, dataFile), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return rec, err
	}
	defer data.Close() // a second Close is harmless
	skeleton, err := newSkeleton(filepath.Join(tmp, skeletonFile))
	if err != nil {
		return rec, err
	}
	layer, err := plant(ctx, data, skeleton, r, b.limits)
	sum, closed := skeleton.close()
	if err == nil {
		err = errors.Join(closed, data.Close())
	}
	if err != nil {
		return rec, err
	}
	rec.Skeleton = &sum
	for dir := range layer.implicit {
		mark(dir, impliedXattr, "")
	}
	if layer.opaqueRoot {
		mark(layer.root, opaqueXattr, "y")
	}
	rec.Data, rec.Blocks = layer.sum, layer.blocks
	if rec.Tree, err = writeTree(filepath.Join(tmp, treeFile), layer.root, []erofs.Device{{Blocks: layer.blocks}}); err != nil {
		return rec, err
	}
	if rec.Verity, err = b.protect(tmp, dataFile, treeFile, skeletonFile); err != nil {
		return rec, err
	}
	rec.Usage, err = measureDir(ctx, tmp)
	return rec, err
}

// writeTree writes an EROFS file system into a new file, and gives its checksum.
func writeTree(path string, root *erofs.Node, devices []erofs.Device) (sum uint32, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	err = errors.Join(erofs.Write(io.MultiWriter(f, crcWriter{&sum}), root, devices), f.Close())
	if errors.Is(err, erofs.ErrTooLarge) {
		err = fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return sum, err
}

func (b *blobs) seal(ctx context.Context, tmp string, diffIDs []digest.Digest) (rec sealRecord, err error) {
	g := grafting{root: emptyDir(), numbers: map[string]uint16{}}
	var trees int64
	for _, d := range diffIDs {
		if err := ctx.Err(); err != nil {
			return rec, err
		}
		name, err := layerName(d)
		if err != nil {
			return rec, err
		}
		layer, err := b.readLayer(name)
		if err != nil {
			return rec, err
		}
		tree, size, err := readTree(b.path("layers", name, treeFile), layer.Tree)
		if err != nil {
			return rec, damageOf(name, err)
		}
		blocks, err := b.blocks(name, layer)
		if err != nil {
			return rec, damageOf(name, err)
		}
		rec.Parts = append(rec.Parts, sealedPart{Data: layer.Data, Tree: layer.Tree, Blocks: blocks})
		if trees += size; trees > maxTrees {
			return rec, fmt.Errorf("layers of more files than fit into memory: %w", ErrTooLarge)
		}
		g.add(tree, name, blocks)
	}
	rec.Devices, rec.Chain = g.layers, diffIDs
	if rec.Image, err = writeTree(filepath.Join(tmp, imageFile), g.root, g.devices); err != nil {
		return rec, err
	}
	rec.Verity, err = b.protect(tmp, imageFile)
	return rec, err
}

// maxTrees bounds the trees that an image is made of, in bytes. It is about a fifth of
// what they are in memory.
const maxTrees = 1 << 30

// readTree reads a tree, which is to have that checksum. It tells its size.
func readTree(path string, sum uint32) (tree *erofs.Node, size int64, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || isBadDisk(err) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, 0, err
	}
	if got := crc32.Checksum(data, castagnoli); got != sum {
		return nil, 0, fmt.Errorf("%s: checksum %08x, not %08x: %w", path, got, sum, ErrDamaged)
	}
	tree, err = erofs.Read(data)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", path, err)
	}
	return tree, int64(len(data)), nil
}

// blocks is the size of a layer's data, which is to be what it was.
func (b *blobs) blocks(name string, rec layerRecord) (uint32, error) {
	path := b.path("layers", name, dataFile)
	if rec.Skeleton != nil {
		if err := checkSize(path, int64(rec.Blocks)*erofs.BlockSize); err != nil {
			return 0, err
		}
		return rec.Blocks, checkVerity(path, rec.Verity[dataFile])
	}
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return 0, err
	}
	return uint32(fi.Size() / erofs.BlockSize), nil
}

func (b *blobs) lowers(seal string, rec sealRecord) ([]string, error) {
	if err := b.standing(seal, rec); err != nil {
		return nil, err
	}
	return []string{b.path(mountsDir, seal)}, nil
}

// standing tells whether the layers of a seal are there. When a container stands on it,
// none can go but a damaged one, which open finds out. It needs the lock.
func (b *blobs) standing(seal string, rec sealRecord) error {
	if len(b.users[seal]) > 0 {
		return nil
	}
	return b.haveAll(rec.Chain)
}
