package bigimage

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// The compression that registries mostly hold.
const (
	gzipLevel = 6
	zstdLevel = 3
)

// An archive is the content of one layer.
type archive struct {
	files   []file
	dense   int64 // bytes of random data, in files of denseFile
	seed    byte
	program string // what becomes Program, if anything
}

const denseFile = 1 << 20

// A packed is an archive, compressed.
type packed struct {
	desc   ocispec.Descriptor
	diffID digest.Digest
	size   int64 // of the archive
	files  int
}

// write compresses a in every packing at once, into files of dir.
func (a archive) write(ctx context.Context, dir string) (map[string]packed, error) {
	group, ctx := errgroup.WithContext(ctx)
	out := map[string]packed{}
	results := make([]packed, len(Packings()))
	var writers []io.Writer
	var ends []*io.PipeWriter
	for i, p := range Packings() {
		r, w := io.Pipe()
		writers, ends = append(writers, w), append(ends, w)
		group.Go(func() error {
			err := results[i].pack(p, r, dir)
			r.CloseWithError(err)
			return err
		})
	}
	diffID := digest.SHA256.Digester()
	count := &counter{}
	files, err := a.tar(ctx, io.MultiWriter(append(writers, diffID.Hash(), count)...))
	for _, w := range ends {
		w.CloseWithError(err)
	}
	if err = errors.Join(err, group.Wait()); err != nil {
		return nil, err
	}
	for i, p := range Packings() {
		results[i].diffID, results[i].size, results[i].files = diffID.Digest(), count.n, files
		out[p] = results[i]
	}
	return out, nil
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// pack compresses from into a file of dir named by its digest.
func (p *packed) pack(packing string, from io.Reader, dir string) error {
	f, err := os.CreateTemp(dir, "new-")
	if err != nil {
		return err
	}
	defer f.Close()
	hash, count := digest.SHA256.Digester(), &counter{}
	to := io.MultiWriter(f, hash.Hash(), count)
	var z io.WriteCloser
	switch packing {
	case "gzip":
		p.desc.MediaType = ocispec.MediaTypeImageLayerGzip
		z, err = gzip.NewWriterLevel(to, gzipLevel)
	case "zstd":
		p.desc.MediaType = ocispec.MediaTypeImageLayerZstd
		z, err = zstd.NewWriter(to, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(zstdLevel)), zstd.WithEncoderConcurrency(1))
	}
	if err != nil {
		return err
	}
	if _, err := io.Copy(z, from); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	p.desc.Digest, p.desc.Size = hash.Digest(), count.n
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, p.desc.Digest.Encoded()))
}

// tar writes the archive, parents before what is in them, and counts the files.
func (a archive) tar(ctx context.Context, to io.Writer) (int, error) {
	w := tar.NewWriter(to)
	t := &tarball{Writer: w, dirs: map[string]bool{".": true, "/": true}}
	if a.program != "" {
		if err := t.file(file{from: a.program, name: path.Base(Program)}, 0o755); err != nil {
			return 0, err
		}
	}
	// The random data is spread over the files, as it is in an image.
	random := random(a.seed)
	every := len(a.files) + 1
	if n := a.dense / denseFile; n > 0 {
		every = max(1, len(a.files)/int(n))
	}
	for i, f := range a.files {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if err := t.file(f, 0); err != nil {
			return 0, err
		}
		if i%every == 0 && a.dense > 0 {
			n := min(a.dense, denseFile)
			a.dense -= n
			name := fmt.Sprintf("assets/%d/%05d.bin", a.seed, i)
			if err := t.data(name, n, io.LimitReader(random, n)); err != nil {
				return 0, err
			}
		}
	}
	return t.files, w.Close()
}

// random is a stream that is the same each time.
func random(seed byte) io.Reader {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], 1767225600)
	key[31] = seed
	return rand.NewChaCha8(key)
}

// A tarball is a layer being written.
type tarball struct {
	*tar.Writer
	dirs  map[string]bool // those that are in it
	files int
}

func (t *tarball) parents(name string) error {
	dir := path.Dir(name)
	if t.dirs[dir] {
		return nil
	}
	if err := t.parents(dir); err != nil {
		return err
	}
	t.dirs[dir] = true
	return t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: epoch(), Format: tar.FormatPAX})
}

func (t *tarball) data(name string, size int64, from io.Reader) error {
	if err := t.parents(name); err != nil {
		return err
	}
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: epoch(), Format: tar.FormatPAX}); err != nil {
		return err
	}
	t.files++
	_, err := io.CopyN(t, from, size)
	return err
}

// file adds a file of the machine, with its owner, mode and time; mode, unless 0, is another.
// One that is gone since it was chosen is left out.
func (t *tarball) file(f file, mode fs.FileMode) error {
	in, err := os.Open(f.from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	h, err := tar.FileInfoHeader(fi, "")
	if err != nil {
		return err
	}
	if h.Name, h.Format, h.Uname, h.Gname = f.name, tar.FormatPAX, "", ""; mode != 0 {
		h.Mode = int64(mode)
	}
	h.ModTime = fi.ModTime().Truncate(time.Second)
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	if err := t.parents(f.name); err != nil {
		return err
	}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	t.files++
	var content io.Reader = in
	if f.copy > 0 { // the first bytes differ, and with them the digest of all
		mark := bytes.Repeat([]byte{byte(f.copy)}, int(min(fi.Size(), 64)))
		if _, err := in.Seek(int64(len(mark)), io.SeekStart); err != nil {
			return err
		}
		content = io.MultiReader(bytes.NewReader(mark), in)
	}
	if n, err := io.CopyN(t, content, fi.Size()); err != nil {
		return fmt.Errorf("%s: changed while it was read, at %d of %d bytes; start again: %w", f.from, n, fi.Size(), err)
	}
	return nil
}
