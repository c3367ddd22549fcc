package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/imageservice/registry"
	"github.com/berthd/berth/snapshot/durable"
)

// A Download is a blob on its way. Reading it gives exactly its bytes, from its
// beginning, or an error of package registry or of the disk. It is for one goroutine.
type Download struct {
	parent  context.Context // the caller's
	ctx     context.Context // parent's, until the transfer ends
	cancel  context.CancelFunc
	store   *Store
	repo    *registry.Repository
	desc    ocispec.Descriptor
	counted func(int64)
	off     int64 // read so far
	stream  *registry.Blob

	// Of a blob that comes to a file.
	name       string
	file, have *os.File
	workers    sync.WaitGroup

	mu      sync.Mutex
	more    sync.Cond // something has come, or err is set
	parts   []part
	first   int // all parts before it are claimed
	working int
	err     error
	hosts   []*registry.Blob // what has been read from, for Reject
	kept    bool             // some of it is from an earlier time
}

// A part of a blob.
type part struct {
	have    int64 // bytes from its beginning on
	claimed bool  // by a worker, or it is there
}

// Host is one of the hosts that it comes from, "" before there is one. It is for any goroutine.
func (d *Download) Host() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.hosts) == 0 {
		return ""
	}
	return d.hosts[len(d.hosts)-1].Host()
}

// copySize is how much is read at once, in bytes.
const copySize = 256 << 10

func newDownload(ctx context.Context, s *Store, repo *registry.Repository, desc ocispec.Descriptor, counted func(int64)) *Download {
	d := &Download{parent: ctx, store: s, repo: repo, desc: desc, counted: counted}
	d.ctx, d.cancel = context.WithCancel(ctx)
	d.more.L = &d.mu
	return d
}

// direct has the blob come from byte off on, without a file.
func (d *Download) direct(off int64) error {
	if err := d.connection(); err != nil {
		return err
	}
	var err error
	if d.stream, err = d.repo.Part(d.ctx, d.desc, off, d.desc.Size); err != nil {
		<-d.store.conns
		d.cancel()
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hosts = append(d.hosts, d.stream)
	return nil
}

// connection waits until one more may be made.
func (d *Download) connection() error {
	select {
	case d.store.conns <- struct{}{}:
		return nil
	case <-d.ctx.Done():
		return d.ctx.Err()
	}
}

// open opens the files, and finds what has come before.
func (d *Download) open(name string) (err error) {
	d.name = name
	path := filepath.Join(d.store.o.Dir, name)
	defer func() {
		if err != nil {
			d.closeFiles()
			err = fmt.Errorf("download: %w", err)
		}
	}()
	if d.file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	if d.have, err = os.OpenFile(path+haveSuffix, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	n := (d.desc.Size + d.store.o.Part - 1) / d.store.o.Part
	d.parts = make([]part, n)
	marks := make([]byte, n)
	if _, err := d.have.ReadAt(marks, 0); err != nil && err != io.EOF {
		return err
	}
	size, err := d.file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	for i := range d.parts {
		if begin, end := d.bounds(i); marks[i] == 1 && end <= size {
			d.parts[i] = part{have: end - begin, claimed: true}
			d.counted(end - begin)
			d.kept = true
		}
	}
	return nil
}

// bounds is where part i begins and ends in the blob.
func (d *Download) bounds(i int) (begin, end int64) {
	begin = int64(i) * d.store.o.Part
	return begin, min(begin+d.store.o.Part, d.desc.Size)
}

// Read implements io.Reader.
func (d *Download) Read(p []byte) (int, error) {
	if d.stream != nil {
		n, err := d.stream.Read(p)
		d.off += int64(n)
		d.counted(int64(n))
		return n, err
	}
	if d.off == d.desc.Size {
		return 0, io.EOF
	}
	n, err := d.wait()
	if err != nil {
		if !durable.IsFull(err) {
			return 0, err
		}
		// Without space for a copy it can still come once, to be unpacked.
		d.drop()
		if err := d.direct(d.off); err != nil {
			return 0, err
		}
		return d.Read(p)
	}
	got, err := d.file.ReadAt(p[:min(int64(len(p)), n)], d.off)
	d.off += int64(got)
	if got > 0 {
		return got, nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF // somebody has cut the file
	}
	return 0, fmt.Errorf("download: %w", err)
}

// wait waits until something has come that is to be read next, and says how much.
func (d *Download) wait() (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		i := d.off / d.store.o.Part
		begin, _ := d.bounds(int(i))
		if n := begin + d.parts[i].have - d.off; n > 0 {
			return n, nil
		}
		if d.err != nil {
			return 0, d.err
		}
		d.more.Wait()
	}
}

// Reject says that what was read is not the blob. It is taken away; unless some of it was
// here from an earlier time, the hosts that sent it are not asked again for anything in the
// repository. It reports whether there is anybody to ask.
func (d *Download) Reject() bool {
	kept := d.kept
	d.Discard()
	left := kept
	for _, b := range d.hosts {
		if !kept {
			left = b.Reject()
		}
	}
	return left
}

// Close ends the transfer and keeps what has come, for the next time. It may be called
// again.
func (d *Download) Close() {
	d.cancel()
	if d.stream != nil {
		d.stream.Close()
		<-d.store.conns
		d.stream = nil
	}
	d.workers.Wait()
	if d.file != nil {
		d.closeFiles()
		d.store.give(d.name)
	}
	if d.err == nil { // no worker is left
		d.err = io.ErrClosedPipe
	}
}

// Discard is Close for a blob that is done with: nothing is kept.
func (d *Download) Discard() {
	if d.file != nil {
		d.remove()
	}
	d.Close()
}

// drop ends the transfer to the file, and takes the file away.
func (d *Download) drop() {
	d.remove()
	d.cancel()
	d.workers.Wait()
	d.closeFiles()
	d.store.give(d.name)
	var have int64
	for _, p := range d.parts {
		have += p.have
	}
	d.counted(d.off - have)
	d.ctx, d.cancel = context.WithCancel(d.parent)
}

func (d *Download) remove() {
	path := filepath.Join(d.store.o.Dir, d.name)
	_ = errors.Join(os.Remove(path+haveSuffix), os.Remove(path)) // Prune does it otherwise
}

func (d *Download) closeFiles() {
	for _, f := range []*os.File{d.file, d.have} {
		if f != nil {
			f.Close()
		}
	}
	d.file, d.have = nil, nil
}
